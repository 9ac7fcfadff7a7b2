# SPDX-License-Identifier: Apache-2.0
"""Weights that alone are integers, and inputs whose range is found at run time: nothing is dequantized at every run."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch

from tests.export import tiny
from tests.export.quantized_files import kinds, optimized, run, written
from tests.export.quantized_programs import quantized, simulated
from vitedge.export.onnx.fusion import count_unpacked, unfused
from vitedge.export.to_onnx import lower
from vitedge.recipe import ResolvedRecipe

OPERATORS = {"w8": "MatMulNBits", "w4": "MatMulNBits", "uint16": "MatMulNBits", "dynamic": "MatMulInteger"}
"""Scheme to the operator that every Linear becomes."""
LEAST_DB = {"w8": 100, "w4": 100, "uint16": 60, "dynamic": 34}
"""Tolerances: values rounded at run time may fall to either side of a half; weights alone are rounded once."""


def linears(name: str) -> int:
    return sum(isinstance(module, torch.nn.Linear) for module in tiny.model(name).modules())


@pytest.mark.parametrize("scheme", OPERATORS)
@pytest.mark.parametrize("name", ["vit", "mobilevit"])  # without convolutions and with
def test_the_file_computes_what_the_simulation_computes_and_keeps_its_weights_small(
    tmp_path: Path, name: str, scheme: str
) -> None:
    images, (content, _) = tiny.images(), written(name, scheme)
    expected = simulated(quantized(name, scheme), images).numpy()
    assert tiny.centred_sqnr(run(content, images), expected) >= LEAST_DB[scheme]
    assert kinds(onnx.load_from_string(content)).count(OPERATORS[scheme]) >= linears(name)
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    assert unfused(path) == ()
    assert count_unpacked(path) == kinds(onnx.load(path)).count("MatMulNBits")
    model = optimized(content, tmp_path)
    stored = {tensor.name for tensor in model.graph.initializer}
    assert not [node for node in model.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in stored]


@pytest.mark.parametrize("scheme", ["w8", "w4"])
def test_any_batch_is_computed_as_one_image_is(scheme: str) -> None:
    content, _ = written("vit", scheme, "dynamic")
    images = tiny.images()
    assert tiny.centred_sqnr(run(content, images, at_once=True), run(content, images)) >= 100


@pytest.mark.parametrize("scheme", ["w8", "uint16"])
def test_expanded_weights_compute_the_same_and_are_folded_when_the_file_is_loaded(tmp_path: Path, scheme: str) -> None:
    images, program = tiny.images(), quantized("mobilevit", scheme)
    lower(program, ResolvedRecipe(packed_weights=False), tmp_path / "model.onnx")
    content = (tmp_path / "model.onnx").read_bytes()
    assert tiny.centred_sqnr(run(content, images), simulated(program, images).numpy()) >= LEAST_DB[scheme]
    assert "MatMulNBits" not in kinds(onnx.load_from_string(content))
    model = optimized(content, tmp_path)
    stored = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert "MatMulNBits" not in kinds(model)
    assert not [node for node in model.graph.node if node.op_type == "Cast" and node.input[0] in stored]
    assert sum(kind == onnx.TensorProto.FLOAT for kind in stored.values()) >= linears("mobilevit")
