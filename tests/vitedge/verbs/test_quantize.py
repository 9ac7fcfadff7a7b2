# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.bad_files import VIT
from tests.vitedge.quantization import small_models as small
from vitedge.checkpoints.read import read
from vitedge.errors import BadRecipe, OutputRefused
from vitedge.files.bundle import ReferenceData
from vitedge.models.reference import load_reference
from vitedge.quantization.file.model import Model
from vitedge.quantization.records import LayerChoice, QuantizationRecord
from vitedge.recipe import CALIBRATED, SCHEMES, ExportRecipe, QuantizationRecipe
from vitedge.records import CheckpointIdentity
from vitedge.verbs.quantize import of_model, prepare, quantize, settings, target


def model(batch: int | str = 1) -> Model:
    """A program that passes for a quantized one."""
    record = QuantizationRecord("int8", 0, "", "")
    identity = CheckpointIdentity("vit.pth", "0" * 64, 1, None)
    evidence = ReferenceData(np.zeros((2, 3, 32, 32), np.uint8), {})
    return Model(small.captured(small.Mixture, batch), record, identity, evidence)


def test_what_a_quantized_program_is_it_stays_in_an_export() -> None:
    asked = ExportRecipe(formats=("onnx", "coreml"), opset=17)
    assert of_model(asked, model(), "m.pt2") == replace(asked, precision="int8", batch=1)
    assert of_model(asked, model("dynamic"), "m.pt2") == replace(asked, precision="int8", batch="dynamic")
    same = ExportRecipe(precision="int8", image_size=(32, 32), quantization=QuantizationRecipe("int8"))
    assert of_model(same, model(), "m.pt2") == replace(same, quantization=None)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"precision": "w4"}, "precision int8, not w4"),
        ({"precision": "fp16"}, "precision int8, not fp16"),
        ({"batch": 4}, "batch 1, not 4"),
        ({"batch": "dynamic"}, "batch 1, not dynamic"),
        ({"input": "uint8"}, "input float32, not uint8"),
        ({"image_size": (64, 32)}, "for 32x32 pixels"),
    ],
)
def test_another_program_than_the_file_holds_is_refused(asked: dict[str, Any], words: str) -> None:
    with pytest.raises(BadRecipe, match=r"^m\.pt2 was quantized .*quantize the checkpoint anew") as caught:
        of_model(replace(ExportRecipe(), **asked), model(), "m.pt2")
    assert words in str(caught.value)


def test_a_program_for_processors_is_not_for_tensorrt() -> None:
    asked, whole = ExportRecipe(precision="int8", profile="jetson-orin-nano"), model()
    for activation in ("int8", None):
        layers = (LayerChoice("left", "linear", "int8", "asked for", activation=activation),)
        assert of_model(asked, replace(whole, record=replace(whole.record, layers=layers)), "m.pt2") == asked
    layers = (LayerChoice("left", "linear", "int8", "asked for", activation="uint8"),)
    with pytest.raises(BadRecipe, match=r"for processors, .*quantize --for jetson-orin-nano\.$"):
        of_model(asked, replace(whole, record=replace(whole.record, layers=layers)), "m.pt2")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_images_are_never_assumed(scheme: str) -> None:
    recipe = ExportRecipe(precision=scheme)
    if scheme not in CALIBRATED:
        assert settings(recipe) == QuantizationRecipe(scheme)
        assert settings(recipe).images is None
    else:
        with pytest.raises(BadRecipe, match="assumes none: add --images"):
            settings(recipe)
    given = QuantizationRecipe(scheme, images="synthetic")
    assert settings(ExportRecipe(precision=scheme, quantization=given)) is given


def test_one_layer_that_needs_images_is_enough_to_ask_for_them() -> None:
    with pytest.raises(BadRecipe, match="--images"):
        settings(ExportRecipe(precision="w8", quantization=QuantizationRecipe("w8", layers={"head": "int8"})))
    with pytest.raises(BadRecipe, match="budget is measured on images"):
        settings(ExportRecipe(precision="w8", quantization=QuantizationRecipe("w8", min_sqnr=30.0)))


@pytest.mark.parametrize(
    ("formats", "profile", "expected"),
    [
        (("onnx",), None, "onnxruntime"),
        (("onnx",), "cpu-x86", "onnxruntime"),
        (("onnx", "coreml"), None, "coreml"),
        (("onnx", "coreml", "tensorrt"), None, "tensorrt"),
        (("onnx",), "jetson-orin-nano", "tensorrt"),
    ],
)
def test_the_strictest_target_decides(formats: tuple[str, ...], profile: str | None, expected: str) -> None:
    assert target(ExportRecipe(formats=formats, profile=profile)) == expected


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
    monkeypatch: pytest.MonkeyPatch, profile: str, formats: tuple[str, ...], expected: str
) -> None:
    monkeypatch.setattr("vitedge.verbs.quantize.run", lambda job: job)
    asked = QuantizationRecipe(images="synthetic")
    reference = load_reference(read(str(VIT)))
    recipe = ExportRecipe(profile=profile, formats=formats, precision="int8", quantization=asked)
    assert prepare(reference, recipe, features=False, progress=lambda _text: None).activations == expected


def test_an_output_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    told: list[str] = []
    (tmp_path / "there.pt2").write_bytes(b"old")
    recipe = ExportRecipe(precision="w8")
    with pytest.raises(OutputRefused, match="--force"):
        quantize("nowhere.pth", tmp_path / "there.pt2", recipe, progress=told.append)
    with pytest.raises(BadRecipe, match=r"name the output model\.pt2"):
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
