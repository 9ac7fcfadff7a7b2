# SPDX-License-Identifier: Apache-2.0
"""A checkpoint of every family, in every naming, from the file to the verified ONNX file.

What ONNX Runtime computes is held to the module of the library that the weights come from, apart from vitedge's own
parity check.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest
import torch

import vitedge
from tests.family_files import Case, quiet
from tests.family_matrix import CASES, WHOLE, Made, Shelf, assert_same, images, run
from vitedge.recipe import ExportRecipe
from vitedge.records import Artifact
from vitedge.verbs.records import ExportResult

FP16_SQNR_DB = 40.0
ONE_OF_EACH = tuple({(CASES[name].family, CASES[name].classes == 0): name for name in reversed(WHOLE)}.values())
"""Half precision knows nothing of namings: one checkpoint of each family, with a head and without, is enough."""


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    quiet()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    return Shelf(tmp_path_factory.mktemp("checkpoints"))


def tolerance(case: Case) -> float:
    return 1e-4 if case.family == "mobilevitv2" else 2e-5


def export(made: Made, bundle: Path, size: int | None = None, precision: str = "fp32") -> ExportResult:
    edges = None if size is None else (size, size)
    recipe = ExportRecipe(image_size=edges, precision=precision, overrides=made.case.given)
    return vitedge.export(made.path, bundle, recipe)


def assert_passed(result: ExportResult, case: Case) -> Artifact:
    (artifact,), (report,) = result.manifest.artifacts, result.manifest.parity
    assert report.passed
    assert [output.output for output in report.outputs] == (["logits"] if case.classes else ["tokens", "pooled"])
    for output in report.outputs:
        if artifact.precision == "fp32":
            assert output.relative_error <= tolerance(case)
            assert output.agreement == (1.0 if output.output == "logits" else None)
        assert output.centred_sqnr_db >= FP16_SQNR_DB
    return artifact


@pytest.mark.parametrize("name", CASES)
@torch.inference_mode()
def test_every_naming_is_read_and_computes_what_its_library_computes(name: str, shelf: Shelf, tmp_path: Path) -> None:
    made = shelf.take(name)
    case = made.case
    found = vitedge.inspect(made.path, overrides=case.given)
    assert (found.spec.family, found.spec.naming) == (case.family, case.naming)
    assert (found.spec.classes, found.spec.image_size) == (case.classes, (case.size, case.size))
    result = export(made, tmp_path / "bundle")
    artifact = assert_passed(result, case)
    first = run(tmp_path / "bundle" / artifact.path, images(case.size))[0]
    assert_same(first, made.source.forward(images(case.size)), tolerance(case))
    assert any("feature extractor" in note for note in result.manifest.spec.notes) is (case.classes == 0)


# timm's own resampling of relative positions.
@pytest.mark.filterwarnings("ignore:torch.searchsorted", "ignore:Using a non-tuple sequence")
@pytest.mark.parametrize("name", WHOLE)
@torch.inference_mode()
def test_another_image_size(name: str, shelf: Shelf, tmp_path: Path) -> None:
    made = shelf.take(name)
    case = made.case
    result = export(made, tmp_path / "bundle", case.other)
    artifact = assert_passed(result, case)
    assert result.manifest.spec.image_size == (case.other, case.other)
    assert artifact.inputs[0].shape == (1, 3, case.other, case.other)
    path = tmp_path / "bundle" / artifact.path
    assert "Resize" not in {node.op_type for node in onnx.load(path).graph.node}
    if made.source.at is not None:
        forward = made.source.at(case.other)
        assert_same(run(path, images(case.other))[0], forward(images(case.other)), tolerance(case))


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_half_precision_at_another_size(name: str, shelf: Shelf, tmp_path: Path) -> None:
    made = shelf.take(name)
    result = export(made, tmp_path / "bundle", made.case.other, "fp16")
    artifact = assert_passed(result, made.case)
    model = onnx.load(tmp_path / "bundle" / artifact.path)
    weights = [tensor for tensor in model.graph.initializer if len(tensor.dims) > 1]
    half = sum(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in weights)
    assert half > len(weights) / 2, "the weights are what half precision is for"
