# SPDX-License-Identifier: Apache-2.0
"""With `passes.quantized`, `passes.integers`, `passes.attention_layout`, `passes.convolution_layout`."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import cast

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, NodeProto, numpy_helper
from torch import nn

from tests.export import tiny
from tests.export.quantized_files import kinds, optimized, run, written
from tests.export.quantized_programs import plan_for, quantized, simulated
from tests.seeding import seeded
from vitedge.export.to_onnx import lower
from vitedge.program.canonical import canonicalize
from vitedge.program.capture import capture
from vitedge.program.execution import Execution
from vitedge.program.modules import block_outputs
from vitedge.program.program import Program
from vitedge.program.structure import find_structure
from vitedge.quantization.attention.parameters import attention_parameters
from vitedge.quantization.attention.policy import SCORES
from vitedge.quantization.insert import insert
from vitedge.recipe import ResolvedRecipe
from vitedge.runtimes.openvino import Runtime as OpenVino

NAMES = ("vit", "pit", "swin", "mobilevit")


@pytest.mark.parametrize(
    ("name", "batch"), [*((name, 1) for name in NAMES), ("swin", "dynamic"), ("mobilevit", "dynamic")]
)
def test_the_file_computes_what_the_simulation_computes(name: str, batch: int | str) -> None:
    images = tiny.images()
    expected = simulated(quantized(name, "uint8", batch), images).numpy()
    found = run(written(name, "uint8", batch)[0], images, at_once=batch == "dynamic")
    # A value at the edge between two integers may fall to either side: that is all that may differ.
    assert tiny.centred_sqnr(found, expected) >= 34
    with torch.no_grad():
        reference = tiny.program(name, batch)[0](images).numpy()
    assert abs(tiny.centred_sqnr(found, reference) - tiny.centred_sqnr(expected, reference)) <= 1


@pytest.mark.parametrize("name", NAMES)
def test_onnx_runtime_dequantizes_no_weight_and_multiplies_no_weight_in_float(name: str, tmp_path: Path) -> None:
    content, _ = written(name)
    model = optimized(content, tmp_path)
    weights = {tensor.name for tensor in model.graph.initializer}
    makers = {output: node for node in model.graph.node for output in node.output}
    assert not [
        node.name for node in model.graph.node if node.op_type == "DequantizeLinear" and weights & {node.input[0]}
    ]
    products = [node for node in model.graph.node if node.op_type in ("MatMul", "Gemm", "FusedMatMul", "FusedGemm")]
    for node in products:
        makers_of_operands = {makers[value].op_type for value in node.input if value in makers}
        assert "DequantizeLinear" not in makers_of_operands
        assert not weights & set(node.input[:2])
    assert kinds(model).count("QGemm") == kinds(onnx.load_from_string(content)).count("Gemm") > 0


@pytest.mark.parametrize("name", NAMES)
def test_blocks_are_those_of_the_simulation(name: str) -> None:
    content, blocks = written(name)
    program, image = quantized(name), tiny.images(1)
    seen: dict[str, torch.Tensor] = {}
    nodes = block_outputs(program.exported, program.blocks)
    Execution(
        program.exported,
        {node: lambda value, block=block: seen.update({block: value}) for block, node in nodes.items()},
    )(image)
    model = onnx.load_from_string(content)
    model.graph.output.extend(onnx.ValueInfoProto(name=value) for value in blocks.values())
    found = tiny.session_of(model).run(list(blocks.values()), {"image": image.numpy()})
    assert tuple(blocks) == tiny.BLOCKS[name]
    for block, value in zip(blocks, found, strict=True):
        assert tiny.relative_error(value, seen[block].numpy()) <= 2e-2
        assert np.abs(value - seen[block].numpy()).mean() <= 1e-3 * np.abs(value).max()


def test_attention_turns_and_splits_nothing_in_float(tmp_path: Path) -> None:
    model = optimized(written("swin")[0], tmp_path)
    moved = {"Transpose", "Slice", "Split", "Concat"}
    types = {tensor.name: tensor.type.tensor_type.elem_type for tensor in model.graph.value_info}
    heads = [node for node in model.graph.node if node.op_type in moved and ".attn" in node.name]
    assert heads
    assert {types[node.output[0]] for node in heads} == {onnx.TensorProto.UINT8}
    assert kinds(model).count("FusedMatMul") == 6


@cache
def with_rounded_scores(batch: int | str) -> Program:
    """A ViT whose queries and keys are rounded as well."""
    several = canonicalize(capture(tiny.model("vit"), tiny.spec("vit"), tiny.BLOCKS["vit"], batch="dynamic"))
    structure = find_structure(several)
    operands = {attention.name: SCORES for attention in structure.attentions}
    program = canonicalize(capture(tiny.model("vit"), tiny.spec("vit"), tiny.BLOCKS["vit"], batch=batch))
    plan = plan_for(program, find_structure(program), list(find_structure(program).layers), "uint8")
    plan.attention = attention_parameters(structure, operands, tiny.images(), "uint8", "minmax")
    return insert(program, plan)


@pytest.mark.parametrize("batch", [1, "dynamic"])
def test_rounded_scores_are_a_product_of_integers_that_layers_put_out(tmp_path: Path, batch: int | str) -> None:
    program, images = with_rounded_scores(batch), tiny.images()
    lower(program, ResolvedRecipe(batch=batch), tmp_path / "model.onnx")
    content = (tmp_path / "model.onnx").read_bytes()
    expected, found = simulated(program, images).numpy(), run(content, images, at_once=batch == "dynamic")
    assert tiny.centred_sqnr(found, expected) >= 34
    model = optimized(content, tmp_path)
    counted = kinds(model)
    attentions = len(find_structure(program).attentions)
    assert attentions == counted.count("MatMulIntegerToFloat") == counted.count("FusedMatMul") > 0
    # Two of the three parts of a joint projection come out as integers, so that nothing rounds or scales them.
    layers = [node for node in model.graph.node if node.op_type == "QGemm"]
    assert sum(len(node.input) == 9 for node in layers) == 2 * attentions
    assert counted.count("QuantizeLinear") == counted.count("QGemm") - 2 * attentions
    assert not {"Mul", "Erf"} & set(counted)  # the scores' factor is in a scale, and GELU is one operator


def test_positions_are_added_before_tokens_would_be_turned(tmp_path: Path) -> None:
    model = optimized(written("pit")[0], tmp_path)
    order = [node.op_type for node in model.graph.node]
    start = order.index("QGemm")
    assert order[start + 1 : order.index("LayerNormalization")] == ["Reshape", "Add", "Reshape", "Concat"]


def test_a_shifted_window_moves_bytes(tmp_path: Path) -> None:
    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(written("swin")[0]))
    types = {tensor.name: tensor.type.tensor_type.elem_type for tensor in model.graph.value_info}
    shifts = [node for node in model.graph.node if node.op_type in ("Slice", "Concat")]
    assert len(shifts) == 12
    assert {types[node.output[0]] for node in shifts} == {onnx.TensorProto.UINT8}


class Layers(nn.Module):
    """Layers one after the other."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x.flatten(1)


def lowered(folder: Path, module: nn.Module, scheme: str = "uint8", batch: int | str = 1) -> tuple[Program, bytes]:
    program = canonicalize(capture(seeded(module), tiny.spec("vit"), (), batch=batch))
    structure = find_structure(program)
    program = insert(program, plan_for(program, structure, list(structure.layers), scheme))
    lower(program, ResolvedRecipe(batch=batch), folder / "model.onnx")
    return program, (folder / "model.onnx").read_bytes()


@pytest.mark.parametrize(
    ("convolution", "batch"),
    [
        (nn.Conv2d(3, 8, 1), 1),
        (nn.Conv2d(3, 8, 1, stride=2), 1),
        (nn.Conv2d(3, 8, 3, stride=2, padding=1), "dynamic"),
        (nn.Conv2d(3, 8, 5, stride=3, padding=(2, 1)), 1),
        (nn.Conv2d(3, 8, (2, 4), padding=1), 1),
        (nn.Conv2d(3, 8, 8, stride=4), "dynamic"),
        (nn.Conv2d(3, 8, 7, stride=7, padding=3), 1),
        (nn.Conv2d(3, 8, 6, stride=(3, 2)), 1),
    ],
    ids=repr,
)
def test_a_convolution_is_a_product_of_integers(tmp_path: Path, convolution: nn.Conv2d, batch: int | str) -> None:
    program, content = lowered(tmp_path, Layers(convolution), batch=batch)
    expected = simulated(program, tiny.images()).numpy()
    assert tiny.relative_error(run(content, tiny.images(), at_once=batch == "dynamic"), expected) <= 1e-4
    found = kinds(optimized(content, tmp_path))
    assert "QGemm" in found
    assert {"Conv", "DequantizeLinear"}.isdisjoint(found)


@pytest.mark.parametrize("convolution", [nn.Conv2d(3, 6, 3, groups=3), nn.Conv2d(3, 6, 7, dilation=2)], ids=repr)
def test_a_convolution_that_is_no_such_product_keeps_its_weight_in_float(
    tmp_path: Path, convolution: nn.Conv2d
) -> None:
    program, content = lowered(tmp_path, Layers(convolution))
    assert tiny.relative_error(run(content, tiny.images()), simulated(program, tiny.images()).numpy()) <= 1e-4
    model = optimized(content, tmp_path)
    assert kinds(model).count("DequantizeLinear") == 1
    weights = [tensor for tensor in model.graph.initializer if len(tensor.dims) == 4]
    assert [tensor.data_type for tensor in weights] == [onnx.TensorProto.FLOAT]


def test_convolutions_hand_each_other_channels_last(tmp_path: Path) -> None:
    module = Layers(nn.Conv2d(3, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 8, 1), nn.SiLU(), nn.Conv2d(8, 4, 3))
    program, content = lowered(tmp_path, module)
    expected = simulated(program, tiny.images()).numpy()
    assert tiny.relative_error(run(content, tiny.images()), expected) <= 1e-4
    assert kinds(onnx.load_from_string(content)).count("Transpose") == 2


def test_a_bias_that_stayed_in_float_is_added_after_the_product(tmp_path: Path) -> None:
    program = canonicalize(capture(seeded(Layers(nn.Linear(32, 8))), tiny.spec("vit"), ()))
    structure = find_structure(program)
    plan = plan_for(program, structure, list(structure.layers), "uint8")
    (name,) = plan.inputs
    plan.inputs[name].scale.mul_(1e-9)
    lower(insert(program, plan), ResolvedRecipe(), tmp_path / "model.onnx")
    content = (tmp_path / "model.onnx").read_bytes()
    assert tiny.relative_error(run(content, tiny.images()), simulated(program, tiny.images()).numpy()) <= 1e-4
    found = kinds(optimized(content, tmp_path))
    assert ("QGemm" in found, "Add" in found, "DequantizeLinear" in found) == (True, True, False)


@pytest.mark.parametrize("name", ["swin", "mobilevit"])
def test_the_form_for_tensorrt_is_that_of_the_textbook(name: str) -> None:
    content, _ = written(name, "int8")
    model = onnx.load_from_string(content)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    makers = {output: node for node in model.graph.node for output in node.output}
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero_point = tensors[node.input[2]]
            assert zero_point.dtype == np.int8
            assert not zero_point.any()
        if node.op_type == "QuantizeLinear":
            readers = {reader.op_type for reader in model.graph.node if node.output[0] in reader.input}
            assert readers == {"DequantizeLinear"}
    norms = sum("LayerNorm" in type(part).__name__ for part in tiny.model(name).modules())
    assert kinds(model).count("LayerNormalization") == norms
    for node in weighted(model, makers, tensors):
        assert [makers[value].op_type for value in node.input[:2]] == ["DequantizeLinear"] * 2
    images = tiny.images()
    assert tiny.centred_sqnr(run(content, images), simulated(quantized(name, "int8"), images).numpy()) >= 34


def weighted(model: ModelProto, makers: dict[str, NodeProto], tensors: dict[str, np.ndarray]) -> list[NodeProto]:
    """The products with a weight."""
    found = [node for node in model.graph.node if node.op_type in ("MatMul", "Conv") and node.input[1] in makers]
    found = [node for node in found if makers[node.input[1]].input[0] in tensors]
    assert found
    return found


@pytest.mark.parametrize("name", NAMES)
def test_openvino_reads_the_same_file_with_the_same_result(name: str, tmp_path: Path) -> None:
    content, _ = written(name)
    (tmp_path / "model.onnx").write_bytes(content)
    images = tiny.images()
    with OpenVino(tmp_path / "model.onnx", threads=1) as runtime:
        found = np.concatenate([runtime.run({"image": image.numpy()})["logits"] for image in images.split(1)])
    assert tiny.centred_sqnr(cast("np.ndarray", found), run(content, images)) >= 30
