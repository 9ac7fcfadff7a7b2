# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.export.coreml.models import captured
from tests.export.quantized_captures import images, quantized
from vitedge.errors import BadRecipe
from vitedge.export.coreml.artifact import check, describe
from vitedge.export.coreml.expected_weights import expected_weights
from vitedge.export.coreml.graph import to_coreml_graph
from vitedge.export.to_coreml import lower
from vitedge.files.digest import hash_file
from vitedge.mlprogram.interpreter import MLProgramInterpreter
from vitedge.mlprogram.package import WEIGHTS, read_package
from vitedge.mlprogram.program import Literal, MLProgram, Operation, ValueType, read_program
from vitedge.parity.coreml.layers import compare_program
from vitedge.parity.coreml.values import ReferenceRounding, ReferenceValues
from vitedge.program.program import Program
from vitedge.program.qdq import DEQUANTIZE, QUANTIZE
from vitedge.recipe import ResolvedRecipe
from vitedge.records import Artifact

FLAVOURS: dict[str, dict[str, Any]] = {
    "vit": {"activations": "int8", "attention": True, "dtype": "uint8"},
    "pit": {"activations": "uint8"},
    "mobilevit": {"activations": "uint8"},
    "swin": {"activations": "int8"},
}
"""Family to how it is quantized."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("quantized")


@cache
def program(family: str) -> Program:
    return quantized(family, **FLAVOURS[family])


@cache
def package(folder: Path, family: str) -> tuple[Artifact, MLProgram]:
    pixels = FLAVOURS[family].get("dtype", "float32")
    return lowered(folder, program(family), f"{family}.mlpackage", precision="int8", input=pixels)


def lowered(folder: Path, source: Program, name: str = "model.mlpackage", **recipe: Any) -> tuple[Artifact, MLProgram]:
    artifact = lower(source, ResolvedRecipe(formats=("coreml",), **recipe), folder / name, ())
    return artifact, read_program(read_package(folder / name))


def kinds(mil: MLProgram, *wanted: str) -> list[Operation]:
    return [operation for operation in mil.operations if operation.kind in wanted]


def logits(mil: MLProgram, batch: Tensor) -> Tensor:
    interpreter = MLProgramInterpreter(mil)
    return torch.cat([interpreter.run({mil.inputs[0].name: image[None].float()})["logits"] for image in batch])


@torch.no_grad()
def simulated(source: Program, batch: Tensor) -> Tensor:
    module = source.exported.module()
    return torch.cat([module(image[None]) for image in batch])


def sqnr(found: Tensor, reference: Tensor) -> float:
    """In dB, after each output's mean over the images is removed."""
    signal, noise = reference - reference.mean(0), found - reference
    return float(10 * torch.log10(signal.square().sum() / (noise - noise.mean(0)).square().sum()))


def integers(family: str, mil: MLProgram, image: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """What the package and the simulation make of the same integers next, by every node that quantizes."""
    exported = to_coreml_graph(program(family), probabilities=False).exported
    names = {
        kind: [node.name for node in exported.graph.nodes if node.target is kind] for kind in (QUANTIZE, DEQUANTIZE)
    }
    expected = ReferenceValues(exported, ReferenceRounding()).compute(image, [*names[QUANTIZE], *names[DEQUANTIZE]])
    given = {name: expected[name] for name in names[DEQUANTIZE]}
    found = MLProgramInterpreter(mil).run({mil.inputs[0].name: image.float()}, names[QUANTIZE], substitutes=given)
    for name in names[QUANTIZE]:
        # A zero point of 128 becomes none, of integers that are signed in place of unsigned.
        shift = 128 if found[name].dtype != expected[name].dtype else 0
        yield found[name].int() + shift, expected[name].int()


@pytest.mark.parametrize("family", FLAVOURS)
def test_the_runtime_computes_what_was_simulated(folder: Path, family: str) -> None:
    _, mil = package(folder, family)
    count = different = 0
    batch = images(program(family), 32)
    for found, expected in integers(family, mil, batch[:1]):
        assert expected.unique().numel() > 4
        assert (found - expected).abs().max() <= 1
        count, different = count + found.numel(), different + int((found != expected).sum())
    assert different <= 0.001 * count
    reference = simulated(captured(family, dtype=program(family).inputs[0].dtype), batch)
    loss = sqnr(simulated(program(family), batch), reference)
    assert 12 < loss < 40
    assert abs(sqnr(logits(mil, batch), reference) - loss) < 1


@pytest.mark.parametrize("family", FLAVOURS)
def test_every_layer_is_quantized_in_the_package_as_in_the_program(folder: Path, family: str) -> None:
    artifact, mil = package(folder, family)
    asked = [node for node in program(family).exported.graph.nodes if node.target is QUANTIZE]
    layers = kinds(mil, "linear", "conv")
    weights = {operation.name for operation in kinds(mil, "constexpr_affine_dequantize")}
    assert len(kinds(mil, "quantize")) == len(kinds(mil, "dequantize")) == len(asked)
    assert len(weights) == len(layers)
    makers = {output.name: operation.kind for operation in mil.operations for output in operation.outputs}
    for layer in layers:
        (weight,), (given,) = layer.inputs["weight"], layer.inputs["x"]
        assert not isinstance(weight, Literal)
        assert not isinstance(given, Literal)
        assert weight.name in weights
        assert makers[given.name] in ("dequantize", "reshape", "transpose")
    path = folder / artifact.path
    report = check(path, artifact, expected_weights(program(family)))
    assert report.passed, report.reason
    assert any(f"{len(weights)} weights and {len(asked)} activations as integers" in phrase for phrase in report.checks)
    assert describe(path).precision == artifact.precision == "int8"


def test_layers_hold_against_the_quantized_program(folder: Path) -> None:
    artifact, _ = package(folder, "swin")
    found = compare_program(folder / artifact.path, program("swin"), images(program("swin"), 1).numpy())
    assert (found.first_departure, found.unmatched, found.unjudged) == ("", (), ())
    assert {"layers.1.blocks.0.mlp.fc1 dequantize", "layers.1.blocks.0.mlp.fc1 linear"} <= {
        row.output for row in found.layers
    }


def literal(operation: Operation, parameter: str) -> Literal:
    held = operation.attributes.get(parameter) or operation.inputs[parameter][0]
    assert isinstance(held, Literal)
    return held


@pytest.mark.parametrize("parameter", ["quantized_data", "scale"])
def test_a_damaged_weight_is_named(folder: Path, tmp_path: Path, parameter: str) -> None:
    artifact, mil = package(folder, "vit")
    path = tmp_path / artifact.path
    shutil.copytree(folder / artifact.path, path)
    (weight,) = [operation for operation in mil.operations if operation.name == "blocks_1_mlp_fc1_weight_quantized"]
    place = literal(weight, parameter).place
    assert place is not None
    content = np.fromfile(path / WEIGHTS, np.uint8)
    content[place.start + 3] ^= 1
    content.tofile(path / WEIGHTS)
    damaged = replace(artifact, files={name: hash_file(path.parent / name) for name in artifact.files})
    report = check(path, damaged, expected_weights(program("vit")))
    assert "1 of" in report.reason
    assert "module blocks.1.mlp.fc1 has" in report.reason


def test_the_bias_is_what_its_integers_stand_for(folder: Path) -> None:
    _, mil = package(folder, "vit")
    constants = {name: held.decode() for name, held in mil.constants()}
    state = program("vit").exported.state_dict
    real = state["head.bias"].float() * state["head.bias_scale"]
    assert state["head.bias"].dtype == torch.int32
    assert np.array_equal(constants["head_bias"], real.numpy())


def test_the_program_is_left_as_it_was(folder: Path) -> None:
    package(folder, "vit")
    lowered_before, untouched = program("vit").exported, quantized("vit", **FLAVOURS["vit"]).exported
    assert str(lowered_before.graph) == str(untouched.graph)
    assert lowered_before.state_dict.keys() == untouched.state_dict.keys()
    assert all(torch.equal(tensor, untouched.state_dict[name]) for name, tensor in lowered_before.state_dict.items())


def test_weights_alone_keep_floating_point_activations(tmp_path: Path) -> None:
    source = quantized("vit")
    artifact, mil = lowered(tmp_path, source, coreml_target="iOS16", precision="w8")
    assert len(kinds(mil, "constexpr_affine_dequantize")) == len(kinds(mil, "linear", "conv"))
    assert not kinds(mil, "quantize", "dequantize")
    batch = images(source, 2)
    assert torch.allclose(logits(mil, batch), simulated(source, batch), rtol=0, atol=1e-5)
    assert describe(tmp_path / artifact.path).precision == "w8"
    report = check(tmp_path / artifact.path, replace(artifact, precision="int8"))
    assert report.reason == "no activation is quantized in a package of int8"


def test_four_bits_are_stored_in_blocks_and_computed_in_half_precision(tmp_path: Path) -> None:
    source = quantized("vit", "int8", weights="int4")
    artifact, mil = lowered(tmp_path, source, coreml_target="iOS18", precision="fp16")
    weights = {
        weight.name.removesuffix("_cast_fp16"): weight for weight in kinds(mil, "constexpr_blockwise_shift_scale")
    }
    fc2 = weights["blocks_0_mlp_fc2_weight_quantized"]
    assert literal(fc2, "data").type.dtype == "int4"
    assert literal(fc2, "scale").type == ValueType("float16", (32, 128 // 16))
    assert literal(weights["patch_embed_proj_weight_quantized"], "data").type.dtype == "int8"
    assert {layer.outputs[0].type.dtype for layer in kinds(mil, "linear", "conv", "dequantize")} == {"float16"}
    batch = images(source, 32)
    reference = simulated(captured(), batch)
    assert abs(sqnr(logits(mil, batch), reference) - sqnr(simulated(source, batch), reference)) < 1
    report = check(tmp_path / artifact.path, artifact, expected_weights(source))
    assert report.passed, report.reason
    assert describe(tmp_path / artifact.path).precision == "w4a8"


@pytest.mark.parametrize(
    ("options", "target", "sentence"),
    [
        ({"weights": "int4"}, "iOS17", "4 bits or in blocks from --coreml-target iOS18 on, not on iOS17"),
        ({"activations": "int8"}, "iOS16", "int8 activations from --coreml-target iOS17 on, not on iOS16"),
        ({"activations": "int16"}, "iOS18", "no int16 activations: for more than 8 bits use w8"),
        ({"dynamic": True}, "iOS18", "cannot choose the scales of activations while it runs: use int8, or w8"),
    ],
)
def test_what_core_ml_has_no_form_for_is_refused(
    tmp_path: Path, options: dict[str, Any], target: str, sentence: str
) -> None:
    with pytest.raises(BadRecipe, match=sentence):
        lowered(tmp_path, quantized("vit", **options), coreml_target=target)
    assert not list(tmp_path.iterdir())
