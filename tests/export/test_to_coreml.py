# SPDX-License-Identifier: Apache-2.0
"""Tests of `to_coreml`, `coreml.convert`, `coreml.graph` and `coreml.describe`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.export.coreml.models import CLASSES, FAMILIES, Features, captured
from tests.seeding import seeded
from vitedge.errors import BadRecipe, CheckFailed, MissingBackend
from vitedge.export.coreml import quiet as coreml_quiet
from vitedge.export.coreml.quiet import load_coremltools
from vitedge.export.coreml.weights import numbers
from vitedge.export.to_coreml import lower
from vitedge.images.preprocess import geometry
from vitedge.mlprogram.package import read_package
from vitedge.mlprogram.program import Literal, MLProgram, read_program
from vitedge.program.capture import capture
from vitedge.program.program import Program
from vitedge.recipe import ResolvedRecipe
from vitedge.records import Artifact, TensorSpec

CAPTURE = {"dtype", "order", "labels"}
"""Options of `captured`; the others are a recipe's."""
LABELS = ("cat", "dog", "crane", "house", "tree")
PIXELS: dict[str, Any] = {"dtype": "uint8", "input": "uint8", "precision": "fp32"}
ELSEWHERE = {"registers", "deit", "pit distilled"}
"""Variants whose packages `test_layers` and `test_coreml_numerics` compare with their programs."""
LABELLED: dict[str, Any] = {"labels": LABELS, "precision": "fp16"}


def lowered(folder: Path, program: Program, *float32_modules: str, **recipe: Any) -> tuple[Artifact, MLProgram]:
    path = folder / "model.mlpackage"
    artifact = lower(program, ResolvedRecipe(formats=("coreml",), **recipe), path, float32_modules)
    return artifact, read_program(read_package(path))


@dataclass(frozen=True)
class Packaged:
    """A program, and the package that it became."""

    program: Program
    artifact: Artifact
    mil: MLProgram
    folder: Path


Package = Callable[..., Packaged]


@pytest.fixture(scope="module")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> Package:
    """Lowers once what several tests look at: a family, modules in float32, options of `captured`, then the recipe."""

    @cache
    def made(family: str = "vit", *float32_modules: str, **settings: Any) -> Packaged:
        program = captured(family, **{name: settings.pop(name) for name in CAPTURE & settings.keys()})
        folder = tmp_path_factory.mktemp("packaged")
        return Packaged(program, *lowered(folder, program, *float32_modules, **settings), folder)

    return made


def dtypes(mil: MLProgram, kind: str) -> dict[str, str]:
    """Name of every value that operations of a kind return, to its element type."""
    return {
        output.name: output.type.dtype
        for operation in mil.operations
        if operation.kind == kind
        for output in operation.outputs
    }


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in ELSEWHERE])
def test_every_family_becomes_a_checked_package(packaged: Package, family: str) -> None:
    found = packaged(family)
    program, artifact, mil = found.program, found.artifact, found.mil
    assert artifact.inputs == program.inputs
    assert artifact.outputs == (TensorSpec("logits", (1, CLASSES), "float32"),)
    assert (mil.package.model.specificationVersion, artifact.target) == (8, "iOS17")
    assert set(artifact.blocks) <= set(program.blocks)
    assert program.blocks[-1] in artifact.blocks
    values = {output.name for operation in mil.operations for output in operation.outputs}
    assert set(artifact.blocks.values()) <= values
    files = [path for path in found.folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) == artifact.size


@pytest.mark.parametrize(
    ("family", "settings"), [("swin", {}), ("vit", PIXELS), ("vit", LABELLED)], ids=["windows", "pixels", "labels"]
)
def test_the_program_is_left_as_it_was(packaged: Package, family: str, settings: dict[str, Any]) -> None:
    untouched = captured(family, **{name: settings[name] for name in CAPTURE & settings.keys()})
    assert str(packaged(family, **settings).program.exported) == str(untouched.exported)


def test_values_are_named_after_modules(packaged: Package) -> None:
    found = packaged("vit")
    names = {name for name, _ in found.mil.constants()}
    assert {"blocks_1_mlp_fc1_weight", "blocks_1_mlp_fc1_bias", "head_weight"} <= names
    assert found.artifact.blocks["blocks.1"].startswith("blocks_1_add")


def test_half_precision_computes_in_fp16_and_talks_in_fp32(packaged: Package) -> None:
    found = packaged("vit", **LABELLED)
    assert set(dtypes(found.mil, "linear").values()) == {"float16"}
    assert found.artifact.outputs[0].dtype == "float32"
    assert found.artifact.precision == "fp16"


def test_islands_stay_in_single_precision(tmp_path: Path) -> None:
    _, mil = lowered(tmp_path, captured(), "blocks.1.norm2", "blocks.0.attn", precision="fp16")
    norms = dtypes(mil, "layer_norm")
    assert {name for name, dtype in norms.items() if dtype == "float32"} == {"blocks_1_norm2_layer_norm"}
    linears = dtypes(mil, "linear")
    single = {name.partition("_linear")[0] for name, dtype in linears.items() if dtype == "float32"}
    assert single == {"blocks_0_attn_qkv", "blocks_0_attn_proj"}
    assert sorted(dtypes(mil, "softmax").values()) == ["float16", "float32"]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_image_goes_in_and_its_normalization_is_exact(packaged: Package, precision: str) -> None:
    found = packaged("vit", **{**PIXELS, "precision": precision})
    artifact, mil = found.artifact, found.mil
    image = mil.package.model.description.input[0].type.imageType
    assert (image.width, image.height, image.colorSpace) == (32, 32, image.ColorSpace.Value("RGB"))
    assert artifact.inputs == (TensorSpec("image", (1, 3, 32, 32), "uint8"),)
    assert set(dtypes(mil, "sub").values()) == {"float32"}
    first = next(operation for operation in mil.operations if operation.kind == "conv")
    before = mil.operations[: mil.operations.index(first)]
    arithmetic = [operation.kind for operation in before if operation.kind not in ("const", "cast")]
    assert arithmetic == ["mul", "sub", "mul"]
    divisor = [value for _, value in numbers(mil)]
    assert any(value.size == 1 and abs(float(value.reshape(-1)[0]) * 255 - 1) < 1e-6 for value in divisor)


def test_reversed_channels_are_reversed_inside(tmp_path: Path) -> None:
    _, mil = lowered(tmp_path, captured(dtype="uint8", order="bgr"), input="uint8")
    image = mil.package.model.description.input[0].type.imageType
    assert image.colorSpace == image.ColorSpace.Value("RGB")
    assert any(operation.kind in ("reverse", "gather") for operation in mil.operations)


def test_a_shifted_window_is_sliced_and_not_gathered(packaged: Package) -> None:
    """Its values are compared by the parity tests of the families."""
    kinds = {operation.kind for operation in packaged("swin").mil.operations}
    assert {"slice_by_index", "concat"} <= kinds
    assert not {"gather", "range_1d"} & kinds


def test_labels_make_a_classifier_that_keeps_its_logits(packaged: Package) -> None:
    found = packaged("vit", **LABELLED)
    artifact, mil = found.artifact, found.mil
    description = mil.package.model.description
    assert [feature.name for feature in description.output] == ["classLabel", "classLabel_probs", "logits"]
    assert description.predictedFeatureName == "classLabel"
    (classify,) = [operation for operation in mil.operations if operation.kind == "classify"]
    (classes,) = classify.inputs["classes"]
    assert isinstance(classes, Literal)
    assert classes.decode() == LABELS
    assert artifact.outputs == (TensorSpec("logits", (1, CLASSES), "float32"),)
    assert "classLabel_probs" in artifact.notes[0]


def test_equal_labels_are_told_apart(tmp_path: Path) -> None:
    artifact, mil = lowered(tmp_path, captured(labels=("cat", "crane", "dog", "crane", "tree")))
    text = mil.package.model.SerializeToString()
    assert b"crane (1)" in text
    assert b"crane (3)" in text
    assert len(artifact.notes) == 2


def test_labels_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadRecipe, match="2 labels for 5 classes"):
        lowered(tmp_path, captured(labels=("cat", "dog")))


def test_features_are_tokens_and_pooled(tmp_path: Path) -> None:
    program = captured()
    module = Features(seeded(FAMILIES["vit"][0]()))  # type: ignore[arg-type]
    program = capture(module.eval(), program.spec, program.blocks, features=True)
    artifact, _ = lowered(tmp_path, program, features=True)
    assert [(output.name, output.shape) for output in artifact.outputs] == [
        ("tokens", (1, 17, 32)),
        ("pooled", (1, 32)),
    ]


@pytest.mark.parametrize(
    ("name", "version"),
    [("iOS16", 7), ("ios26", 10), ("macOS15", 9)],
)
def test_the_deployment_target_decides_the_specification(tmp_path: Path, name: str, version: int) -> None:
    artifact, mil = lowered(tmp_path, captured(), coreml_target=name)
    assert mil.package.model.specificationVersion == version
    assert artifact.target == {7: "iOS16", 9: "iOS18", 10: "iOS26"}[version]


@pytest.mark.parametrize("name", ["iOS15", "iOS99", "watchOS10", ""])
def test_another_target_is_refused_with_the_choices(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadRecipe, match=r"iOS16, iOS17, iOS18, .*macOS14"):
        lowered(tmp_path, captured(), coreml_target=name)
    assert not list(tmp_path.iterdir())


def test_a_dynamic_batch_is_refused(tmp_path: Path) -> None:
    program = captured()
    dynamic = replace(program, inputs=(TensorSpec("image", ("batch", 3, 32, 32), "float32"),))
    with pytest.raises(BadRecipe, match="fixed batch"):
        lowered(tmp_path, dynamic)


def test_several_images_at_once_are_a_multi_array(tmp_path: Path) -> None:
    program = captured(dtype="uint8", labels=LABELS)
    from tests.export.coreml.models import Normalized  # noqa: PLC0415

    module = Normalized(seeded(FAMILIES["vit"][0]()), program.spec.preprocessing).eval()
    artifact, mil = lowered(
        tmp_path, capture(module, program.spec, program.blocks, batch=2, dtype="uint8"), input="uint8"
    )
    assert artifact.inputs == (TensorSpec("image", (2, 3, 32, 32), "float32", pixels=True),)
    assert mil.package.model.description.predictedFeatureName == ""
    assert len(artifact.notes) == 2


class Windows(torch.nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.reshape(1, 3, 4, 8, 4, 8).softmax(-1)


class Rank6(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Windows()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.inner(image).sum((2, 4)).mean((2, 3))


def test_a_rank_above_five_names_operation_and_module(tmp_path: Path) -> None:
    program = capture(Rank6().eval(), captured().spec, ("inner",))
    with pytest.raises(CheckFailed, match=r"rank 5 at most, but reshape in module inner"):
        lowered(tmp_path, program)
    assert not list(tmp_path.iterdir())


def test_the_package_describes_itself_without_a_date(packaged: Package) -> None:
    mil = packaged("vit", **LABELLED).mil
    metadata = mil.package.model.description.metadata
    assert not [key for key in metadata.userDefined if "date" in key]
    assert json.loads(metadata.userDefined["vitedge.labels"]) == list(LABELS)
    assert json.loads(metadata.userDefined["vitedge.recipe"])["precision"] == "fp16"
    assert json.loads(metadata.userDefined["vitedge.preprocessing"])["mean"] == [0.5, 0.4, 0.3]
    assert "tiny vit" in metadata.shortDescription
    (image,) = mil.package.model.description.input
    assert image.shortDescription.endswith(geometry(packaged("vit", **LABELLED).program.spec))
    assert all(feature.shortDescription for feature in mil.package.model.description.output)


def test_another_conversion_in_a_process_writes_the_same_bytes(
    packaged: Package, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    first = packaged("swin")
    capfd.readouterr()
    again, _ = lowered(tmp_path, captured("swin"))
    assert again.sha256 == first.artifact.sha256
    assert capfd.readouterr() == ("", ""), "nothing reaches the terminal"


def test_coremltools_reads_the_package(packaged: Package) -> None:
    found = packaged("vit", **LABELLED)
    ct = load_coremltools()
    with coreml_quiet.quiet():
        model = ct.models.MLModel(str(found.folder / "model.mlpackage"), skip_model_load=True)
    assert model.output_description["logits"].startswith("Class scores")


def test_a_missing_coremltools_is_a_missing_backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = captured()
    monkeypatch.setitem(sys.modules, "coremltools", None)
    with pytest.raises(MissingBackend, match=r"pip install 'coremltools>=9.0'"):
        lowered(tmp_path, program)


def test_windows_is_told_where_to_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = captured()
    monkeypatch.setattr(coreml_quiet.platform, "system", lambda: "Windows")
    with pytest.raises(MissingBackend, match="Linux or macOS"):
        lowered(tmp_path, program)
