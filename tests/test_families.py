# SPDX-License-Identifier: Apache-2.0
"""A checkpoint of every family, in every naming, from the file to the verified ONNX file.

What ONNX Runtime computes is held to the module of the library that the weights come from, apart from vitedge's own
parity check.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor

import vitedge
from tests.family_files import Case, Source, quiet
from tests.family_map_files import MAP_CASES
from tests.family_vit_files import VIT_CASES
from vitedge.recipe import ExportRecipe
from vitedge.records import Artifact, ExportResult

CASES = {**VIT_CASES, **MAP_CASES}
WHOLE = [name for name, case in CASES.items() if case.whole]
FP16_SQNR_DB = 40.0


@pytest.fixture(autouse=True, scope="module")
def _silent() -> Iterator[None]:
    quiet()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@dataclass(frozen=True)
class Made:
    case: Case
    source: Source
    path: str


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Made]:
    folder = tmp_path_factory.mktemp("checkpoints")

    @cache
    def make(name: str) -> Made:
        case = CASES[name]
        source = case.source()
        return Made(case, source, case.write(source, folder / name))

    return make


def bar(case: Case) -> float:
    return 1e-4 if case.family == "mobilevitv2" else 2e-5


def export(made: Made, bundle: Path, size: int | None = None, precision: str = "fp32") -> ExportResult:
    edges = None if size is None else (size, size)
    return vitedge.export(
        made.path, bundle, ExportRecipe(image_size=edges, precision=precision, overrides=made.case.given)
    )


def images(edge: int, count: int = 4) -> Tensor:
    return torch.randn(count, 3, edge, edge, generator=torch.Generator().manual_seed(5))


def run(path: Path, inputs: Tensor) -> list[Tensor]:
    """The outputs for images, one at a time, as ONNX Runtime computes them from nothing but the file."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    results = [session.run(None, {entry.name: image[None].numpy()}) for image in inputs]
    return [torch.from_numpy(np.concatenate(output)) for output in zip(*results, strict=True)]


@torch.inference_mode()
def assert_same(found: Tensor, forward: Callable[[Tensor], Tensor], inputs: Tensor, allowed: float) -> None:
    expected = forward(inputs)
    assert found.shape == expected.shape
    assert (expected - expected.mean(0)).abs().max() > 1e-3 * expected.abs().max(), (
        "the images have to make a difference"
    )
    assert float((found - expected).abs().max() / expected.abs().max()) <= allowed


def assert_passed(result: ExportResult, case: Case) -> Artifact:
    (artifact,), (report,) = result.manifest.artifacts, result.manifest.parity
    assert report.passed
    assert [output.output for output in report.outputs] == (["logits"] if case.classes else ["tokens", "pooled"])
    for output in report.outputs:
        if artifact.precision == "fp32":
            assert output.relative_error <= bar(case)
            assert output.agreement == (1.0 if output.output == "logits" else None)
        assert output.centred_sqnr_db >= FP16_SQNR_DB
    return artifact


@pytest.mark.parametrize("name", CASES)
def test_every_naming_is_read_and_computes_what_its_library_computes(
    name: str, made: Callable[[str], Made], tmp_path: Path
) -> None:
    one = made(name)
    case = one.case
    found = vitedge.inspect(one.path, overrides=case.given)
    assert (found.spec.family, found.spec.naming) == (case.family, case.naming)
    assert (found.spec.classes, found.spec.image_size) == (case.classes, (case.size, case.size))
    result = export(one, tmp_path / "bundle")
    artifact = assert_passed(result, case)
    outputs = run(tmp_path / "bundle" / artifact.path, images(case.size))
    assert_same(outputs[0], one.source.forward, images(case.size), bar(case))
    said = " ".join((*result.manifest.spec.notes, *artifact.notes))
    assert ("feature extractor" in said) is (case.classes == 0)


@pytest.mark.parametrize("name", WHOLE)
def test_another_image_size(name: str, made: Callable[[str], Made], tmp_path: Path) -> None:
    one = made(name)
    case = one.case
    result = export(one, tmp_path / "bundle", case.other)
    artifact = assert_passed(result, case)
    assert result.manifest.spec.image_size == (case.other, case.other)
    assert artifact.inputs[0].shape == (1, 3, case.other, case.other)
    path = tmp_path / "bundle" / artifact.path
    assert "Resize" not in {node.op_type for node in onnx.load(path).graph.node}
    forward = one.source.at(case.other) if one.source.at else None
    if case.family.startswith("mobilevit"):
        forward = one.source.forward
    if forward is not None:
        assert_same(run(path, images(case.other))[0], forward, images(case.other), bar(case))


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("edge", ["native", "other"])
def test_half_precision(name: str, edge: str, made: Callable[[str], Made], tmp_path: Path) -> None:
    one = made(name)
    result = export(one, tmp_path / "bundle", one.case.other if edge == "other" else None, "fp16")
    artifact = assert_passed(result, one.case)
    model = onnx.load(tmp_path / "bundle" / artifact.path)
    weights = [tensor for tensor in model.graph.initializer if len(tensor.dims) > 1]
    half = sum(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in weights)
    assert half > len(weights) / 2, "the weights are what half precision is for"
