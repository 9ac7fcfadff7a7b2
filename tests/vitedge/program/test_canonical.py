# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy

import pytest
import torch

from tests.export import tiny
from tests.vitedge.quantization import small_models as small
from vitedge.program.canonical import canonicalize
from vitedge.program.capture import capture
from vitedge.program.editor import Editor, aten
from vitedge.program.program import Program
from vitedge.program.structure import Structure, find_structure

SUPERFLUOUS = {
    aten.dropout.default,
    aten.contiguous.default,
    aten.alias.default,
    aten.detach.default,
    aten.silu_.default,
    aten.relu_.default,
    aten.view.default,
}


def targets(program: Program) -> list[object]:
    return [node.target for node in program.exported.graph.nodes if node.op == "call_function"]


def check_layers(structure: Structure) -> None:
    """Every layer has a weight and a bias, and nothing else reads them."""
    names = [name for layer in structure.layers for name in (layer.weight, layer.bias)]
    assert len(set(names)) == len(names)
    stored = [node for node in structure.editor.graph.nodes if structure.editor.name(node) in names]
    assert [len(node.users) for node in stored] == [1] * len(names)
    kinds = (aten.linear.default, aten.conv2d.default)
    assert sum(target in kinds for target in targets(structure.program)) == len(structure.layers)


def in_float64(program: Program) -> Program:
    editor = Editor(program.exported)
    for node in program.exported.graph.nodes:
        tensor = editor.tensor(node)
        if tensor is not None and tensor.is_floating_point():
            editor.set(str(editor.name(node)), tensor.double())
    return program


@pytest.mark.parametrize("name", tiny.NAMES)
def test_a_family_computes_what_its_reference_computes(name: str) -> None:
    module, captured = tiny.program(name, "dynamic")
    program = canonicalize(in_float64(copy.deepcopy(captured)))
    images = tiny.images(3).double()
    with torch.no_grad():
        expected = copy.deepcopy(module).double()(images)
    found = small.run(program, images)
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-12
    assert not SUPERFLUOUS & set(targets(program))
    assert aten.batch_norm.default not in targets(program)
    check_layers(find_structure(program))


def test_a_bias_that_is_computed_becomes_one_that_is_stored() -> None:
    module, captured = tiny.program("beit", "dynamic")
    structure = find_structure(canonicalize(copy.deepcopy(captured)))
    attention = module.get_submodule("blocks.0.attn")
    expected = torch.cat([attention.q_bias, attention.k_bias, attention.v_bias])
    (layer,) = (layer for layer in structure.layers if layer.weight == "blocks.0.attn.qkv.weight")
    assert torch.equal(structure.editor.value(layer.bias), expected)
    assert not [name for name in structure.program.exported.state_dict if "q_bias" in name]


def test_the_gain_of_a_residual_branch_goes_into_the_layer_before_it() -> None:
    module, captured = tiny.program("beit", "dynamic")
    structure = find_structure(canonicalize(copy.deepcopy(captured)))
    block, layer = module.get_submodule("blocks.1"), structure.layer("blocks.1.mlp.fc2")
    gain = block.gamma_2
    assert torch.allclose(structure.editor.value(layer.weight), block.mlp.fc2.weight * gain[:, None], rtol=1e-6)
    assert torch.allclose(structure.editor.value(layer.bias), block.mlp.fc2.bias * gain, rtol=1e-6)
    assert not [name for name in structure.program.exported.state_dict if "gamma" in name]


def test_batch_normalizations_go_into_the_convolutions_before_them_and_nowhere_else() -> None:
    program = canonicalize(small.captured(small.Folded))
    assert targets(program).count(aten.batch_norm.default) == 1  # the one that reads no convolution
    assert not SUPERFLUOUS & set(targets(program))
    assert aten.pad.default not in targets(program)
    assert aten.slice.Tensor not in targets(program)
    structure = find_structure(program)
    check_layers(structure)
    module = small.built(small.Folded)
    norm, conv = module.norm, module.conv
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    layer = structure.layer("conv")
    assert torch.allclose(structure.editor.value(layer.weight), conv.weight * scale[:, None, None, None], rtol=1e-6)
    assert torch.allclose(structure.editor.value(layer.bias), norm.bias - norm.running_mean * scale, atol=1e-6)
    images = tiny.images(3)
    with torch.no_grad():
        assert torch.allclose(small.run(program, images), module(images), atol=1e-5)


def test_a_convolution_that_something_else_reads_keeps_its_normalization_behind_it() -> None:
    program = canonicalize(small.captured(small.ReadTwice))
    assert aten.batch_norm.default in targets(program)
    images = tiny.images(3)
    with torch.no_grad():
        assert torch.allclose(small.run(program, images), small.built(small.ReadTwice)(images), atol=1e-6)


def test_tied_weights_become_one_for_each_layer() -> None:
    program = canonicalize(small.captured(small.Tied))
    structure = find_structure(program)
    check_layers(structure)
    editor = structure.editor
    first, second = (structure.layer(name) for name in ("first", "second"))
    assert torch.equal(editor.value(first.weight), editor.value(second.weight))
    editor.set(first.weight, torch.zeros(32, 32))
    module = small.built(small.Tied)
    assert torch.equal(editor.value(second.weight), module.second.weight)
    with torch.no_grad():
        expected = module.second(torch.nn.functional.gelu(module.first.bias.expand(2, 32)))
    assert torch.allclose(small.run(program, tiny.images(2)), expected, atol=1e-6)


def test_the_reference_is_left_as_it_was() -> None:
    module = tiny.model("mobilevit")
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    canonicalize(capture(module, tiny.spec("mobilevit"), tiny.BLOCKS["mobilevit"]))
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
