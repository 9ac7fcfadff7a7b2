# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from tests.export import tiny
from tests.vitedge.quantization import small_models as small
from vitedge.program.editor import Editor, aten
from vitedge.program.modules import innermost_module
from vitedge.program.program import Program

IMAGES = tiny.images(2)


@pytest.fixture
def program() -> Program:
    return small.captured(small.Mixture)


def layer(editor: Editor, module: str) -> torch.fx.Node:
    return next(
        node for node in editor.calls() if node.target is aten.linear.default and innermost_module(node) == module
    )


def test_tensors_are_read_and_replaced_by_name_and_the_reference_keeps_its_own(program: Program) -> None:
    module, editor = small.built(small.Mixture), Editor(program.exported)
    assert torch.equal(editor.value("left.weight"), module.left.weight)
    node = layer(editor, "left")
    assert editor.name(node.args[1]) == "left.weight"
    assert torch.equal(editor.tensor(node.args[1]), module.left.weight)
    assert editor.name(node) is None
    assert editor.name(editor.image()) is None
    before = small.run(program, IMAGES)
    editor.set("left.weight", module.left.weight.detach() * 2)
    editor.set("left.bias", module.left.bias.detach() * 2)
    editor.finish()
    assert list(editor.edited) == ["left.weight", "left.bias"]
    assert float((small.run(program, IMAGES) - before).abs().max()) > 0.01
    with torch.no_grad():
        assert torch.allclose(module(IMAGES), before, atol=1e-6)


def test_a_new_buffer_is_read_by_the_nodes_that_take_it(program: Program) -> None:
    editor = Editor(program.exported)
    head = layer(editor, "head")
    offset = editor.add("head.offset", torch.arange(5.0))
    before = small.run(small.captured(small.Mixture), IMAGES)
    node = editor.call(aten.add.Tensor, (head, offset), head.next)
    editor.replace(head, node)
    node.replace_input_with(node.args[0], head)  # which `replace` turned to itself
    editor.finish()
    assert program.exported.graph_signature.user_outputs == (node.name,)
    assert torch.allclose(small.run(program, IMAGES), before + torch.arange(5.0))
    with pytest.raises(ValueError, match=r"head\.offset is there already"):
        editor.add("head.offset", torch.zeros(1))


def test_a_new_node_belongs_to_the_module_before_whose_node_it_stands(program: Program) -> None:
    editor = Editor(program.exported)
    right = layer(editor, "right")
    node = editor.call(aten.neg.default, (right.args[0],), right)
    assert innermost_module(node) == "right"
    assert node.meta["val"].shape == right.args[0].meta["val"].shape


def test_what_nothing_reads_goes_away_with_its_tensors(program: Program) -> None:
    editor = Editor(program.exported)
    left, right = layer(editor, "left"), layer(editor, "right")
    editor.replace(right, left)
    editor.finish()
    assert "right.weight" not in program.exported.state_dict
    assert "left.weight" in program.exported.state_dict
    assert right not in program.exported.graph.nodes
    assert small.run(program, IMAGES).shape == (2, 5)


def test_integers_in_the_place_of_a_parameter_make_it_a_buffer(program: Program) -> None:
    editor = Editor(program.exported)
    editor.set("left.weight", torch.ones(48, 32, dtype=torch.int8))
    assert "left.weight" in program.exported.graph_signature.buffers
    assert "left.weight" not in program.exported.graph_signature.parameters
    assert layer(editor, "left").args[1].meta["val"].dtype is torch.int8
