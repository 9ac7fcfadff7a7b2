# SPDX-License-Identifier: Apache-2.0
"""Quantized files whose rest is in half precision; float ones are looked at in ``tests/export/test_to_onnx.py``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from tests.export import tiny
from tests.export.quantized_programs import quantized
from tests.releases import older
from vitedge.export.tensorrt.graph import OnnxGraph, read_graph
from vitedge.export.to_onnx import lower
from vitedge.recipe import ResolvedRecipe

KEPT = "blocks.0.mlp.fc1"


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> OnnxGraph:
    """A tiny ViT in int8 with the rest in half precision, one layer of it in float32."""
    path = tmp_path_factory.mktemp("half") / "model.onnx"
    lower(quantized("vit", "int8"), ResolvedRecipe(precision="int8", form="tensorrt", rest="fp16"), path, (KEPT,))
    return read_graph(path)


def test_a_product_and_what_dequantizes_its_operands_have_one_type(graph: OnnxGraph) -> None:
    found = {}
    for node in graph.of("MatMul", "Conv"):
        operands = [graph.producer(name) for name in node.input[:2]]
        if all(one is not None and one.op_type == "DequantizeLinear" for one in operands):
            kinds = {graph.type_of(name).kind for name in (*node.input[:2], node.output[0])}
            assert len(kinds) == 1, node.name
            found[node.name.partition("/")[0]] = kinds.pop()
    assert found.pop(KEPT) == "fp32"
    assert set(found.values()) == {"fp16"}
    assert len(found) > 8


def test_scales_are_numbers_of_float16_and_inputs_and_outputs_stay_float32(graph: OnnxGraph) -> None:
    (image,) = graph.inputs()
    assert (
        image.type.tensor_type.elem_type == graph.model.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT
    )
    assert graph.model.opset_import[0].version == 19
    scales = [graph.constant(node.input[1]) for node in graph.of("QuantizeLinear", "DequantizeLinear")]
    halves = [numpy_helper.to_array(one) for one in scales if one is not None and one.data_type == TensorProto.FLOAT16]
    assert len(halves) > len(scales) // 2
    assert min(float(one.min()) for one in halves) >= 2.0**-14


@pytest.mark.skipif(older("onnxruntime", 1, 30), reason="ONNX Runtime divides in float16 where it rounds")
def test_the_file_is_as_near_to_the_simulation_as_half_precision_allows(tmp_path: Path) -> None:
    program, images = quantized("vit", "int8"), tiny.images(6).numpy()
    found = {}
    for rest in ("fp32", "fp16"):
        lower(program, ResolvedRecipe(precision="int8", form="tensorrt", rest=rest), tmp_path / f"{rest}.onnx")
        session = tiny.session(tmp_path / f"{rest}.onnx")
        found[rest] = np.concatenate([session.run(None, {"image": image[None]})[0] for image in images])
    assert tiny.centred_sqnr(found["fp16"], found["fp32"]) > 20
    assert onnx.load(tmp_path / "fp16.onnx").ByteSize() < onnx.load(tmp_path / "fp32.onnx").ByteSize()


@pytest.mark.parametrize(("form", "kind"), [("processor", "fp32"), ("tensorrt", "fp16")])
def test_processors_get_their_norms_and_softmax_in_float32(tmp_path: Path, form: str, kind: str) -> None:
    lower(tiny.program("vit", 1)[1], ResolvedRecipe(precision="fp16", form=form), tmp_path / "model.onnx")
    graph = read_graph(tmp_path / "model.onnx")
    found = [graph.type_of(value).kind for value in (node.output[0] for node in graph.of("LayerNormalization"))]
    assert len(found) > 3
    assert set(found) == {kind}
    assert {graph.type_of(node.input[1]).kind for node in graph.of("MatMul")} == {"fp16"}
