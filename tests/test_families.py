# SPDX-License-Identifier: Apache-2.0
"""A checkpoint of every family, in every naming, from the file to the module, and of every graph to the verified file.

What PyTorch and ONNX Runtime compute is held to the module of the library that the weights come from, apart from
vitedge's own parity check.
"""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor

import vitedge
from tests.family_files import Case
from tests.family_matrix import CASES, WHOLE, Made, Shelf, assert_same, images, run
from vitedge.recipe import ExportRecipe
from vitedge.records import Artifact
from vitedge.verbs.records import ExportResult

FP16_SQNR_DB = 40.0
GRAPHS = (*WHOLE, "dinov2 facebook registers", "swin hugging face")
"""Lowering knows nothing of namings, which end in the same modules: one checkpoint of each kind of graph is enough."""
ONE_OF_EACH = tuple({(CASES[name].family, CASES[name].classes == 0): name for name in reversed(WHOLE)}.values())
"""One checkpoint of each family, with a head and without: half precision and other sizes are the same for the rest."""


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    return Shelf(tmp_path_factory.mktemp("checkpoints"))


def tolerance(case: Case) -> float:
    return 1e-4 if case.family == "mobilevitv2" else 2e-5


def export(made: Made, bundle: Path, size: int | None = None, precision: str = "fp32") -> ExportResult:
    edges = None if size is None else (size, size)
    # As strangers leave them: what no file tells is a guess that happens to be right, which `computed` is held to.
    given = made.case.given
    recipe = ExportRecipe(image_size=edges, precision=precision, overrides=given, accept_assumptions=True)
    return vitedge.export(made.path, bundle, recipe)


def computed(made: Made, size: int | None = None) -> Tensor:
    """What the module that is built of a checkpoint makes of images: its logits, or its tokens."""
    case = made.case
    edges = None if size is None else (size, size)
    reference = vitedge.load(made.path, image_size=edges, overrides=case.given)
    result = reference.deployed(uint8=False, features=case.classes == 0)(images(size or case.size))
    return result[0] if isinstance(result, tuple) else result  # type: ignore[no-any-return]


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
def test_every_naming_is_read_and_computes_what_its_library_computes(name: str, shelf: Shelf) -> None:
    made = shelf.take(name)
    case = made.case
    spec = vitedge.inspect(made.path, overrides=case.given).spec
    assert (spec.family, spec.naming) == (case.family, case.naming)
    assert (spec.classes, spec.image_size) == (case.classes, (case.size, case.size))
    assert any("feature extractor" in note for note in spec.notes) is (case.classes == 0)
    assert_same(computed(made), made.source.forward(images(case.size)), tolerance(case))


@pytest.mark.parametrize("name", GRAPHS)
@torch.inference_mode()
def test_every_kind_of_graph_reaches_a_verified_file(name: str, shelf: Shelf, tmp_path: Path) -> None:
    made = shelf.take(name)
    result = export(made, tmp_path / "bundle")
    artifact = assert_passed(result, made.case)
    first = run(tmp_path / "bundle" / artifact.path, images(made.case.size))[0]
    assert_same(first, made.source.forward(images(made.case.size)), tolerance(made.case))
    assert any("feature extractor" in note for note in result.manifest.spec.notes) is (made.case.classes == 0)


# timm's own resampling of relative positions.
@pytest.mark.filterwarnings("ignore:torch.searchsorted", "ignore:Using a non-tuple sequence")
@pytest.mark.parametrize("name", WHOLE)
@torch.inference_mode()
def test_another_image_size_is_what_the_library_makes_of_the_weights(name: str, shelf: Shelf) -> None:
    made = shelf.take(name)
    other = made.case.other
    found = computed(made, other)
    if made.source.at is None:
        own = made.source.forward(images(made.case.size))
        channels = 1 if own.ndim == 4 else -1  # a map has them in front of its edges
        assert (found.ndim, found.shape[channels]) == (own.ndim, own.shape[channels])
        assert (found - found.mean(0)).abs().max() > 1e-3 * found.abs().max(), "the image has to matter"
    else:
        assert_same(found, made.source.at(other)(images(other)), tolerance(made.case))


@pytest.mark.parametrize(  # only Swin's graph is another at another size: its windows are padded
    ("name", "precision"), [("swin timm", "fp32"), *((name, "fp16") for name in ONE_OF_EACH)]
)
def test_another_image_size_reaches_a_verified_file(name: str, precision: str, shelf: Shelf, tmp_path: Path) -> None:
    made = shelf.take(name)
    edge = made.case.other
    result = export(made, tmp_path / "bundle", edge, precision)
    artifact = assert_passed(result, made.case)
    assert result.manifest.spec.image_size == (edge, edge)
    assert artifact.inputs[0].shape == (1, 3, edge, edge)
    graph = onnx.load(tmp_path / "bundle" / artifact.path).graph
    assert "Resize" not in {node.op_type for node in graph.node}
    weights = [tensor for tensor in graph.initializer if len(tensor.dims) > 1]
    half = sum(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in weights)
    if precision == "fp16":
        assert half > len(weights) / 2, "the weights are what half precision is for"
    else:
        assert half == 0
