# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, export

from tests.export import tiny
from vitedge.checkpoints.families.family import Hints
from vitedge.checkpoints.families.mobilevit.v1 import infer as infer_v1
from vitedge.checkpoints.families.mobilevit.v2 import infer as infer_v2
from vitedge.export import to_coreml, to_onnx
from vitedge.export.coreml import artifact as coreml_artifact
from vitedge.export.coreml.expected_weights import expected_weights
from vitedge.export.onnx.passes.opset import NEWEST_OPSET
from vitedge.mlprogram.package import read_package
from vitedge.mlprogram.program import read_program
from vitedge.models import mobilevit, mobilevitv2
from vitedge.program.capture import capture
from vitedge.program.interpolation import interpolation_matrix, write_as_products
from vitedge.program.program import Program
from vitedge.recipe import ResolvedRecipe

SIZE = (36, 44)
"""At the stride of 4 the last maps are of 9x11 positions, which the patch does not divide."""
BOUND = {"mobilevit": 2e-5, "mobilevitv2": 1e-4}
CONSTANTS = {
    "mobilevit": {
        "bilinear_9_to_10",
        "bilinear_11_to_12_transposed",
        "bilinear_10_to_9",
        "bilinear_12_to_11_transposed",
    },
    "mobilevitv2": {"bilinear_aligned_9_to_10", "bilinear_aligned_11_to_12_transposed"},
}
NAMES = tuple(BOUND)


@cache
def captured(name: str, batch: int | str) -> tuple[nn.Module, Program]:
    """A tiny model of either version, rebuilt at `SIZE`, and its program."""
    family, infer = {"mobilevit": (mobilevit, infer_v1), "mobilevitv2": (mobilevitv2, infer_v2)}[name]
    state = tiny.model(name).state_dict()
    state, spec = family.resize(state, infer(state, "timm", Hints()), SIZE)
    module = family.build(spec)
    module.load_state_dict(state)
    return module, capture(module, spec, family.blocks(spec), batch=batch)


def images(count: int = 6) -> Tensor:
    return torch.randn(count, 3, *SIZE, generator=torch.Generator().manual_seed(1))


def targets(exported: ExportedProgram) -> set[str]:
    return {str(node.target) for node in exported.graph.nodes if node.op == "call_function"}


class Resizing(nn.Module):
    """Interpolates to one size, back, and to it again."""

    def __init__(self, size: tuple[int, int], *, align_corners: bool) -> None:
        super().__init__()
        self.size, self.align_corners = size, align_corners

    def forward(self, image: Tensor) -> Tensor:
        for size in (self.size, image.shape[2:], self.size):
            image = nn.functional.interpolate(image, size, mode="bilinear", align_corners=self.align_corners)
        return image


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(8, 12), (3, 16), (1, 1), (7, 9)])
def test_products_equal_the_interpolation(size: tuple[int, int], align_corners: bool) -> None:
    module = Resizing(size, align_corners=align_corners)
    exported = export(module, (torch.zeros(2, 3, 7, 9),), dynamic_shapes=({0: Dim("batch", min=1)},), strict=False)
    write_as_products(exported)
    assert not any("upsample" in target for target in targets(exported))
    for count in (1, 5):
        image = torch.randn(count, 3, 7, 9, generator=torch.Generator().manual_seed(count))
        torch.testing.assert_close(exported.module()(image), module(image), rtol=1e-5, atol=1e-6)


def test_equal_constants_are_there_once_and_survive_a_decomposition() -> None:
    exported = export(Resizing((8, 12), align_corners=False), (torch.zeros(1, 3, 7, 7),), strict=False)
    write_as_products(exported)
    names = {
        "bilinear_7_to_8", "bilinear_7_to_12_transposed", "bilinear_8_to_7", "bilinear_12_to_7_transposed",
    }  # fmt: skip
    assert set(exported.constants) == names
    decomposed = exported.run_decompositions({})
    assert set(decomposed.constants) == names
    assert not any("upsample" in target for target in targets(decomposed))


def test_coefficients_are_positive_sum_to_one_and_fit_half_precision() -> None:
    for old, new, align_corners in ((7, 8, False), (8, 7, False), (7, 8, True), (1, 2, True), (1, 2, False)):
        matrix = interpolation_matrix(old, new, align_corners=align_corners)
        assert matrix.shape == (new, old)
        assert matrix.min() >= 0
        torch.testing.assert_close(matrix.sum(1), torch.ones(new))
        torch.testing.assert_close(matrix.half().float(), matrix, rtol=1e-3, atol=1e-6)
    corners = interpolation_matrix(7, 8, align_corners=True)
    assert corners[0, 0] == corners[-1, -1] == 1


@pytest.mark.parametrize("name", NAMES)
def test_a_program_of_a_size_that_patches_do_not_divide_is_the_module(name: str) -> None:
    module, program = captured(name, "dynamic")
    assert set(program.exported.constants) == CONSTANTS[name]
    with torch.no_grad():
        torch.testing.assert_close(program.exported.module()(images()), module(images()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("batch", "opset", "precision"),
    [(1, 17, "fp32"), ("dynamic", NEWEST_OPSET, "fp32"), ("dynamic", 18, "fp16")],
)
@pytest.mark.parametrize("name", NAMES)
def test_onnx_multiplies_where_the_model_interpolates(
    tmp_path: Path, name: str, batch: int | str, opset: int, precision: str
) -> None:
    module, program = captured(name, batch)
    path = tmp_path / "model.onnx"
    to_onnx.lower(program, ResolvedRecipe(opset=opset, precision=precision, batch=batch), path)
    graph = onnx.load(path).graph
    assert not {"Resize", "Upsample"} & {node.op_type for node in graph.node}
    assert CONSTANTS[name] <= {initializer.name for initializer in graph.initializer}
    session = tiny.session(path)
    found = np.concatenate([session.run(None, {"image": image[None].numpy()})[0] for image in images()])
    with torch.no_grad():
        expected = module(images()).numpy()
    if precision == "fp32":
        assert tiny.relative_error(found, expected) <= BOUND[name]
    else:
        assert tiny.centred_sqnr(found, expected) >= 40


@pytest.mark.parametrize(("name", "precision"), [("mobilevit", "fp16"), ("mobilevitv2", "fp32")])
def test_core_ml_multiplies_with_the_same_constants(tmp_path: Path, name: str, precision: str) -> None:
    _, program = captured(name, 1)
    path = tmp_path / "model.mlpackage"
    artifact = to_coreml.lower(program, ResolvedRecipe(formats=("coreml",), precision=precision), path, ())
    kinds = {operation.kind for operation in read_program(read_package(path)).operations}
    assert not {kind for kind in kinds if "upsample" in kind or "resize" in kind}
    weights = expected_weights(program)
    assert {f"c_{constant}" for constant in CONSTANTS[name]} <= set(weights)
    report = coreml_artifact.check(path, artifact, weights)
    assert report.passed, report.reason
    changed = "c_" + min(CONSTANTS[name])
    weights[changed] = replace(weights[changed], value=weights[changed].value.copy())
    weights[changed].value[0, 0] += 0.01
    assert not coreml_artifact.check(path, artifact, weights).passed
