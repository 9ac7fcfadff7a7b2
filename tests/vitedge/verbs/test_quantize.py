# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.bad_files import VIT, vit_state
from vitedge.checkpoints.read import read
from vitedge.errors import BadRecipe, CheckFailed, OutputRefused
from vitedge.export.formats import PROCESSOR, QuantizedForm
from vitedge.models.reference import load_reference
from vitedge.quantization.file.model import Model
from vitedge.recipe import CALIBRATED, SCHEMES, ExportRecipe, QuantizationRecipe, ResolvedRecipe
from vitedge.verbs.quantize import quantize, quantize_reference, settings
from vitedge.verbs.targets import strictest, targets


@pytest.mark.parametrize("scheme", SCHEMES)
def test_images_are_never_assumed(scheme: str) -> None:
    recipe = ResolvedRecipe(precision=scheme)
    if scheme not in CALIBRATED:
        assert settings(recipe) == QuantizationRecipe(scheme)
        assert settings(recipe).images is None
    else:
        with pytest.raises(BadRecipe, match="assumes none: add --images"):
            settings(recipe)
    given = QuantizationRecipe(scheme, images="synthetic")
    assert settings(ResolvedRecipe(precision=scheme, quantization=given)) is given


def test_one_layer_that_needs_images_is_enough_to_ask_for_them() -> None:
    with pytest.raises(BadRecipe, match="--images"):
        settings(ResolvedRecipe(precision="w8", quantization=QuantizationRecipe("w8", layers={"head": "int8"})))
    with pytest.raises(BadRecipe, match="budget is measured on images"):
        settings(ResolvedRecipe(precision="w8", quantization=QuantizationRecipe("w8", min_sqnr=30.0)))


@pytest.mark.parametrize(
    ("profile", "formats", "expected"),
    [
        ("cpu-x86", ("onnx",), "uint8"),
        ("cpu-arm", ("onnx",), "uint8"),
        ("mac", ("onnx",), "uint8"),
        ("mac", ("coreml",), "int8"),
        ("rtx", ("onnx",), "int8"),
    ],
)
def test_processors_get_activations_without_a_sign(
    monkeypatch: pytest.MonkeyPatch, profile: str, formats: tuple[str, ...], expected: QuantizedForm
) -> None:
    monkeypatch.setattr("vitedge.verbs.quantize.run", lambda job: job)
    asked = QuantizationRecipe(images="synthetic")
    reference = load_reference(read(str(VIT)))
    recipe = ResolvedRecipe(profiles=(profile,), formats=formats, precision="int8", quantization=asked)
    form = strictest(targets(recipe))
    job = quantize_reference(reference, recipe, form, features=False)
    assert job.activations == expected


@pytest.mark.parametrize("scheme", ["int8", "w8"])
def test_a_degenerate_reference_is_never_quantized(scheme: str, tmp_path: Path) -> None:
    """Zero logits, images that are all alike, and a single image: nothing is calibrated, nothing is written."""
    state, told = vit_state(), []
    state["head.weight"].zero_()
    torch.save({"model": state, "args": {"num_heads": 2}}, tmp_path / "constant.pth")
    np.save(tmp_path / "alike.npy", np.full((8, 40, 40, 3), 128, np.uint8))
    np.save(tmp_path / "one.npy", np.full((1, 40, 40, 3), 128, np.uint8))
    cases = (tmp_path / "constant.pth", "synthetic"), (VIT, tmp_path / "alike.npy"), (VIT, tmp_path / "one.npy")
    for source, images in cases:
        asked = ExportRecipe(quantization=QuantizationRecipe(scheme, images=str(images)))
        with pytest.raises(CheckFailed, match="the reference is degenerate"):
            quantize(str(source), tmp_path / "m.pt2", asked, progress=told.append)
    assert not (tmp_path / "m.pt2").exists()
    assert "calibrating …" not in told


def test_few_images_are_warned_about_and_the_share_of_a_scheme_is_told(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (8, 40, 40, 3), dtype=np.uint8)
    np.save(tmp_path / "pairs.npy", pixels[[0, 1, 0, 1, 0, 1]])
    asked = ExportRecipe(quantization=QuantizationRecipe("int8", images=str(tmp_path / "pairs.npy")))
    done = quantize(str(VIT), tmp_path / "m.pt2", asked)
    assert any(note.startswith("only 2 of 6 images differ") for note in done.record.notes)
    assert done.record.share == 1.0


def test_an_output_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    told: list[str] = []
    (tmp_path / "there.pt2").write_bytes(b"old")
    recipe = ResolvedRecipe(precision="w8")
    with pytest.raises(OutputRefused, match="--force"):
        quantize("nowhere.pth", tmp_path / "there.pt2", recipe, progress=told.append)
    with pytest.raises(BadRecipe, match=r"name the output .*model\.pt2"):
        quantize("nowhere.pth", tmp_path / "model.onnx", recipe, progress=told.append)
    assert told == []


def test_a_failure_while_writing_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(path: Path, _model: Model) -> None:
        path.write_bytes(b"half a program")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vitedge.verbs.quantize.write_model", failing)
    (tmp_path / "m.pt2").write_bytes(b"old")
    with pytest.raises(OutputRefused, match=r"disk of .* is full"):
        quantize(str(VIT), tmp_path / "m.pt2", ExportRecipe(precision="w8"), force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["m.pt2"]
    assert (tmp_path / "m.pt2").read_bytes() == b"old"


def test_a_budget_weighs_what_layers_cost_on_this_machine() -> None:
    quick = {"smoothing": False, "equalization": False, "bias_correction": False, "ranges": "minmax"}
    asked = QuantizationRecipe("mixed", images="synthetic", image_count=8, min_sqnr=36.0, **quick)  # type: ignore[arg-type]
    recipe = ResolvedRecipe(formats=("onnx",), precision="mixed", quantization=asked)
    reference = load_reference(read(str(VIT)), None)
    job = quantize_reference(reference, recipe, PROCESSOR, features=False)
    frontier = job.mixed_precision.search.frontier
    assert len(frontier) > 1
    assert all(point.microseconds is not None and point.microseconds > 0 for point in frontier)
    assert job.mixed_precision.notes == ()
