# SPDX-License-Identifier: Apache-2.0
"""Tests of `float16_range`, and of `export.float16.lowering`, which lowers by what it reports."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.bad_files import VIT, vit_state
from tests.vitedge.mlprogram.mil import program as mil
from vitedge.checkpoints.read import read
from vitedge.errors import CheckFailed
from vitedge.export.float16 import float32_modules
from vitedge.export.float16.lowering import lower_in_range
from vitedge.files.bundle import ReferenceData
from vitedge.models.reference import load_reference
from vitedge.parity.artifact import ReferenceOutputs
from vitedge.parity.float16_range import check_overflow
from vitedge.program.float16 import FLOAT16_MAX
from vitedge.recipe import ExportRecipe
from vitedge.records import Artifact, OverflowReport, TensorSpec, Tolerance
from vitedge.verbs import lowering
from vitedge.verbs.export import export

HALF = ExportRecipe(formats=("coreml",), precision="fp16", image_count=4)
FAULTY = ("blocks.2.mlp.fc1", "blocks.2.mlp.act", "blocks.2.mlp.fc2")
"""What makes, passes on and reads the values that overflow in `overflowing`."""
SCALE = 1e5


def overflowing(folder: Path) -> Path:
    """The demo's ViT, which computes about the same over values that are 100 000 times larger in one place."""
    state = vit_state()
    for name in ("weight", "bias"):
        state[f"blocks.2.mlp.fc1.{name}"] *= SCALE
    state["blocks.2.mlp.fc2.weight"] /= SCALE
    torch.save({"model": state, "args": {"num_heads": 2}}, folder / "overflowing.pth")
    return folder / "overflowing.pth"


@pytest.fixture
def no_prediction(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is foreseen on the captured graph."""
    monkeypatch.setattr(float32_modules, "find_overflowing", lambda *_: ())
    monkeypatch.setattr(float32_modules, "choose_noisy", lambda *_, **__: ())


@pytest.mark.usefixtures("no_prediction")
def test_what_overflows_is_found_in_the_package_and_kept_in_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports: list[OverflowReport] = []

    def spy(*arguments: Any) -> OverflowReport:
        reports.append(check_overflow(*arguments))
        return reports[-1]

    monkeypatch.setattr(lowering, "check_overflow", spy)
    (artifact,) = export(str(overflowing(tmp_path)), tmp_path / "out", HALF).manifest.artifacts
    (note,) = (note for note in artifact.notes if "largest value of float16" in note)
    assert note.startswith(", ".join(FAULTY) + " stay in float32")
    naive, mended = reports
    assert (naive.passed, naive.keep_fp32) == (False, FAULTY)
    assert (naive.ranges[0].module, naive.ranges[0].fault) == (FAULTY[0], "overflow")
    assert (mended.passed, mended.keep_fp32, mended.images) == (True, (), 4)
    kept = {entry.module for entry in mended.ranges if entry.magnitude and entry.magnitude > FLOAT16_MAX}
    assert kept == set(FAULTY[:2])
    assert {entry.dtype for entry in mended.ranges if entry.module == "blocks.1.mlp.fc1"} == {"float16"}


def test_a_package_that_is_predicted_well_is_lowered_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lowered = []

    def counted(lower: Callable[..., Any], *arguments: Any) -> Artifact:
        def write(single: tuple[str, ...]) -> Artifact:
            lowered.append(single)
            found: Artifact = lower(single)
            return found

        return lower_in_range(write, *arguments)

    monkeypatch.setattr(lowering, "lower_in_range", counted)
    (artifact,) = export(str(overflowing(tmp_path)), tmp_path / "out", HALF).manifest.artifacts
    assert len(lowered) == 1
    assert set(FAULTY) <= set(lowered[0])
    assert not any("largest value of float16" in note for note in artifact.notes)


def too_large(folder: Path) -> tuple[Callable[[tuple[str, ...]], Artifact], ReferenceOutputs, list[tuple[str, ...]]]:
    """A lowering that takes no notice of what is to stay in float32, two images, and what it was asked for."""
    images = np.full((2, 3, 4, 4), 200, np.uint8)

    def build(mb: Any, x: Any) -> Any:
        scale = mb.const(val=1e3 * np.ones((2, 3, 1, 1), np.float16), name="stem_conv_weight_to_fp16")
        return mb.conv(x=mb.cast(x=x, dtype="fp16"), weight=scale, name="y")

    package = mil(build, {"x": images[:1].astype(np.float32)}).package
    shape = (1, 3, 4, 4)
    artifact = Artifact("coreml", "model.mlpackage", "", 0, "fp16", "iOS16", (TensorSpec("x", shape, "uint8"),), ())
    asked: list[tuple[str, ...]] = []

    def lower(single: tuple[str, ...]) -> Artifact:
        asked.append(single)
        shutil.copytree(package.path, folder / artifact.path)
        return artifact

    spec = load_reference(read(str(VIT))).spec
    return lower, ReferenceOutputs(ReferenceData(images, {}), spec, Tolerance(), ""), asked


def test_what_float32_does_not_mend_is_named(tmp_path: Path) -> None:
    lower, reference_outputs, asked = too_large(tmp_path)
    path = tmp_path / "model.mlpackage"
    with pytest.raises(CheckFailed) as caught:
        lower_in_range(
            lower, path, lambda artifact: check_overflow(path, artifact, reference_outputs.data, reference_outputs.spec)
        )
    text = str(caught.value)
    assert "conv of module stem_conv overflows (6e+05; float16 holds 65504)" in text
    assert asked == [(), ("stem_conv",)]


def test_the_report_is_of_the_artifact_and_all_images(tmp_path: Path) -> None:
    lower, reference_outputs, _ = too_large(tmp_path)
    artifact = lower(())
    report = check_overflow(tmp_path / artifact.path, artifact, reference_outputs.data, reference_outputs.spec)
    assert (report.artifact, report.images, report.passed) == ("model.mlpackage", 2, False)
    assert report.ranges[0].magnitude == 200 * 3 * 1000
