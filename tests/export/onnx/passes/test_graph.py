# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import onnx_ir as ir
import pytest
from onnx_ir.passes.common import (
    CommonSubexpressionEliminationPass,
    IdentityEliminationPass,
    RemoveUnusedNodesPass,
)

from tests.export.onnx.passes.graphs import graph_of, kinds
from vitedge.errors import BadRecipe
from vitedge.export.onnx.passes.graph import Graph, GraphPass, attributes_of, input_of

CHAIN = "main (float[2] x) => (float[2] y) { a = Exp(x)  b = Identity(a)  c = Neg(b)  y = Relu(c) }"


@GraphPass
def drop_relus(graph: Graph) -> None:
    for node in [node for node in graph.model.graph if node.op_type == "Relu"]:
        graph.replace(node.outputs[0], input_of(node))


def test_the_value_of_a_block_stays_where_no_output_depends_on_it() -> None:
    text = "main (float[2] x) => (float[2] y) { a = Exp(x)  b = Neg(a)  y = Relu(x) }"
    graph = graph_of(text, blocks={"block": "a"})
    graph.run([RemoveUnusedNodesPass()])
    assert kinds(graph) == ["Exp", "Relu"]
    assert graph.blocks["block"] is graph.model.graph[0].outputs[0]
    assert [value.name for value in graph.model.graph.outputs] == ["y"]
    assert not graph.blocks["block"].is_graph_output()


def test_a_block_follows_its_value_through_the_passes_of_the_library() -> None:
    graph = graph_of(CHAIN, blocks={"block": "b"})
    graph.run([IdentityEliminationPass()])
    assert kinds(graph) == ["Exp", "Neg", "Relu"]
    assert graph.blocks["block"] is graph.model.graph[0].outputs[0]


def test_an_output_keeps_its_name_where_a_block_is_a_copy_of_it() -> None:
    text = "main (float[2] x) => (float[2] y) { y = Exp(x)  b = Identity(y) }"
    graph = graph_of(text, blocks={"block": "b", "last": "y"})
    graph.run([IdentityEliminationPass()])
    (output,) = graph.model.graph.outputs
    assert output.name == "y"
    assert graph.blocks["block"] is graph.blocks["last"] is output


def test_blocks_of_equal_values_share_one() -> None:
    text = "main (float[2] x) => (float[2] y) { a = Exp(x)  b = Exp(x)  y = Add(a, b) }"
    graph = graph_of(text, blocks={"one": "a", "other": "b"})
    graph.run([CommonSubexpressionEliminationPass(), IdentityEliminationPass()])
    assert kinds(graph) == ["Exp", "Add"]
    assert graph.blocks["one"] is graph.blocks["other"] is graph.model.graph[0].outputs[0]


def test_a_pass_says_whether_it_altered_anything_and_leaves_nothing_unused() -> None:
    graph = graph_of(CHAIN, blocks={"block": "y"})
    altered = []

    class Watch(ir.passes.InPlacePass):
        def call(self, model: ir.Model) -> ir.passes.PassResult:
            result = drop_relus(model)
            altered.append(result.modified)
            return result

    graph.run([Watch(), Watch()])
    assert altered == [True, False]
    assert kinds(graph) == ["Exp", "Identity", "Neg"]
    (output,) = graph.model.graph.outputs
    assert (output.name, graph.blocks["block"]) == ("y", output)
    assert repr(drop_relus) == "drop_relus"


def test_a_pass_finds_the_blocks_apart_from_the_outputs() -> None:
    graph = graph_of(CHAIN, blocks={"block": "a", "other": "c"})
    seen: list[tuple[list[str | None], list[str | None]]] = []

    @GraphPass
    def look(graph: Graph) -> None:
        values = list(graph.blocks.values())
        seen.append(([value.name for value in graph.model.graph.outputs], [value.name for value in values]))
        assert all(graph.is_kept(value) and not value.is_graph_output() for value in values)

    graph.run([look])
    assert seen == [(["y"], ["a", "c"])]


def test_what_a_pass_raises_is_raised_as_it_is() -> None:
    @GraphPass
    def fail(graph: Graph) -> None:
        raise BadRecipe("no such form") from KeyError("form")

    nested = ir.passes.PassManager([ir.passes.Sequential(fail)], steps=2)
    with pytest.raises(BadRecipe, match="no such form") as caught:
        graph_of(CHAIN).run([RemoveUnusedNodesPass(), nested])
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_node_without_an_input_is_refused_by_name() -> None:
    graph = graph_of("main (float[2] x) => (float[2] y) { y = Clip<a: int = 3>(x, , x) }")
    (node,) = graph.model.graph
    assert input_of(node) is graph.model.graph.inputs[0]
    assert attributes_of(node) == {"a": 3}
    with pytest.raises(ValueError, match="Clip lacks input 1"):
        input_of(node, 1)
