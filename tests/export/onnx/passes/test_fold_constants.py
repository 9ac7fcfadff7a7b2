# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.export.onnx.passes.graphs import graph_of, kinds
from vitedge.export.onnx.passes.fold_constants import FoldConstantsPass
from vitedge.export.onnx.passes.graph import Graph, constant

LARGE = 600
"""Edge of a weight that onnxscript would leave alone: it has more elements than its limits for inputs and outputs."""
LINEAR = """main (float[2,K] x, float[N,K] before, float[N,K] w, float[N] after) => (float[2,N] y) {
    u = Transpose<perm=[1,0]>(before)  t = Transpose<perm=[1,0]>(w)
    p = MatMul(x, t)  q = MatMul(x, u)  s = Add(p, q)  y = Add(s, after)
}"""


def folded(graph: Graph) -> Graph:
    graph.run([FoldConstantsPass()])
    return graph


def test_a_transposed_weight_is_a_view_that_keeps_name_and_place() -> None:
    weights = {name: torch.randn(LARGE, LARGE + 1) for name in ("before", "w")} | {"after": torch.randn(LARGE)}
    graph = graph_of(LINEAR.replace("K", str(LARGE + 1)).replace("N", str(LARGE)), weights)
    initializers = folded(graph).model.graph.initializers
    assert kinds(graph) == ["MatMul", "MatMul", "Add", "Add"]
    assert list(initializers) == ["before", "w", "after"]
    for name in ("before", "w"):
        value, tensor = initializers[name], constant(initializers[name])
        assert value.shape == (LARGE + 1, LARGE)
        assert tensor is not None
        assert torch.equal(tensor, weights[name].T)
        assert tensor.data_ptr() == weights[name].data_ptr()


def test_a_layer_that_is_called_twice_has_one_weight() -> None:
    text = """main (float[2,3] x, float[3,3] w) => (float[2,3] y) {
        t = Transpose<perm=[1,0]>(w)  p = MatMul(x, t)  u = Transpose<perm=[1,0]>(w)  y = MatMul(p, u)
    }"""
    graph = folded(graph_of(text, {"w": torch.randn(3, 3)}))
    assert list(graph.model.graph.initializers) == ["w"]
    first, second = graph.model.graph
    assert first.inputs[1] is second.inputs[1]


def test_a_weight_that_is_read_in_two_orders_stays_as_it_is_beside_its_view() -> None:
    text = """main (float[2,3] x, float[3,3] w) => (float[2,3] y) {
        t = Transpose<perm=[1,0]>(w)  p = MatMul(x, t)  y = MatMul(p, w)
    }"""
    weight = torch.arange(9.0).reshape(3, 3)
    graph = folded(graph_of(text, {"w": weight}))
    values = [constant(node.inputs[1]) for node in graph.model.graph]
    assert [tensor.tolist() for tensor in values if tensor is not None] == [weight.T.tolist(), weight.tolist()]
    assert len(graph.model.graph.initializers) == 2


@pytest.mark.parametrize("second", ["Transpose<perm=[0,2,1]>(r)", "Reshape(r, v)"])
def test_one_view_of_another_has_the_name_of_the_weight(second: str) -> None:
    text = f"""main (float[2,4,2] x, float[4,2] w) => (float[2,4,2] y) {{
        s = Constant<value_ints=[1,2,4]>()  v = Constant<value_ints=[1,4,2]>()
        r = Reshape(w, s)  t = {second}  y = Mul(x, t)
    }}"""
    weight = torch.arange(8.0).reshape(4, 2)
    graph = folded(graph_of(text, {"w": weight}))
    tensor = constant(graph.model.graph[0].inputs[1])
    assert "w" in graph.model.graph.initializers
    assert graph.model.graph[0].inputs[1] is graph.model.graph.initializers["w"]
    assert tensor is not None
    assert tensor.data_ptr() == weight.data_ptr()


def test_what_is_computed_of_a_weight_has_a_name_of_its_own() -> None:
    text = """main (float[2] x, float[3] w) => (float[2] y) {
        i = Constant<value_ints=[2,0]>()  g = Gather(w, i)  h = Neg(g)  y = Add(x, h)
    }"""
    graph = folded(graph_of(text, {"w": torch.tensor([1.0, 2.0, 3.0])}))
    assert kinds(graph) == ["Add"]
    value = graph.model.graph[0].inputs[1]
    assert value is not None
    assert value.name != "w"
    assert value.const_value is not None
    np.testing.assert_array_equal(value.const_value.numpy(), [-3, -1])


def test_a_quantized_weight_stays_one() -> None:
    text = """main (float[2,3] x, int8[3,3] w, float[3] s) => (float[2,3] y) {
        d = DequantizeLinear<axis=0>(w, s)  t = Transpose<perm=[1,0]>(d)  y = MatMul(x, t)
    }"""
    weights = {"w": torch.ones(3, 3, dtype=torch.int8), "s": torch.ones(3)}
    assert kinds(folded(graph_of(text, weights))) == ["DequantizeLinear", "Transpose", "MatMul"]
