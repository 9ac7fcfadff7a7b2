# SPDX-License-Identifier: Apache-2.0
"""Models of neither 1 nor 3 channels: arrays and synthetic images, from one image to a bundle and its accuracy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from timm.models import VisionTransformer

from tests.seeding import seeded
from tests.vitedge.images.specs import make_spec
from vitedge.errors import BadImages
from vitedge.images.image_set import load
from vitedge.images.preprocess import prepare_image
from vitedge.images.stream import open_images
from vitedge.recipe import ExportRecipe, QuantizationRecipe
from vitedge.records import ModelSpec, Preprocessing
from vitedge.verbs.evaluate import EvaluationRequest, evaluate
from vitedge.verbs.export import export
from vitedge.verbs.quantize import quantize
from vitedge.verbs.validate import validate

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 40, 36, 5), np.uint8)


def _spec(channels: int = 5, mode: str = "center", crop: float = 0.9) -> ModelSpec:
    mean = tuple(0.1 * index for index in range(1, channels + 1))
    preprocessing = Preprocessing(mean, (0.25,) * channels, "bicubic", crop, crop_mode=mode)
    return replace(make_spec((32, 32)), in_channels=channels, preprocessing=preprocessing)


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("crop", [0.8, 1.3])
def test_each_channel_is_prepared_as_a_grey_image(mode: str, crop: float) -> None:
    found = prepare_image(PIXELS[0], _spec(mode=mode, crop=crop))
    for plane, pixels, mean in zip(found, PIXELS[0].transpose(2, 0, 1), _spec().preprocessing.mean, strict=True):
        alone = Preprocessing((mean,), (1.0,), "bicubic", crop, crop_mode=mode)
        grey = replace(make_spec((32, 32), channels=1), preprocessing=alone)
        assert np.array_equal(plane[None], prepare_image(Image.fromarray(pixels), grey))


@pytest.mark.parametrize("channels", [2, 4, 5, 13])
@pytest.mark.parametrize("layout", ["stack", "channels first", "one image", "folder", "list", "synthetic"])
def test_every_source_of_arrays(tmp_path: Path, channels: int, layout: str) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (3, 40, 36, channels), np.uint8)
    source = tmp_path / "set.npy"
    if layout == "one image":
        pixels = pixels[:1]
        np.save(source, pixels[0])
    elif layout in ("folder", "list"):
        for index, image in enumerate(pixels):
            np.save(tmp_path / f"{index}.npy", image)
        names = [f"{index}.npy" for index in range(3)]
        source = tmp_path / "list.txt" if layout == "list" else tmp_path
        (tmp_path / "list.txt").write_text("\n".join(names))
    else:
        np.save(source, pixels if layout == "stack" else np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
    found = load("synthetic" if layout == "synthetic" else source, _spec(channels), len(pixels))
    assert found.pixels.shape == (len(pixels), channels, 32, 32)
    assert not found.remarks
    expected = {prepare_image(image, _spec(channels)).tobytes() for image in pixels}
    if layout == "synthetic":
        assert len({plane.tobytes() for image in found.pixels for plane in image}) == 3 * channels
    else:
        assert {image.tobytes() for image in found.pixels} == expected


def test_a_colour_image_in_one_array_is_one_image(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", PIXELS[0, ..., :3])
    assert load(tmp_path / "one.npy", make_spec((32, 32)), 1).pixels.shape == (1, 3, 32, 32)


def test_pictures_are_refused_in_one_sentence(tmp_path: Path) -> None:
    Image.new("RGB", (40, 40)).save(tmp_path / "picture.png")
    (tmp_path / "list.txt").write_text("picture.png")
    for source in (tmp_path, tmp_path / "picture.png", tmp_path / "list.txt"):
        with pytest.raises(BadImages, match=r"takes 5 channels, and pictures have 3 .*\.npy") as caught:
            next(open_images(source, _spec(), 4).batches(1))
        assert "\n" not in str(caught.value)
    np.save(tmp_path / "four.npy", PIXELS[..., :4])
    with pytest.raises(BadImages, match="have 5 channels"):
        open_images(tmp_path / "four.npy", _spec(), 4)


def test_from_checkpoint_to_accuracy(tmp_path: Path) -> None:
    model = VisionTransformer(32, 8, in_chans=5, num_classes=4, embed_dim=64, depth=1, num_heads=1)
    torch.save(seeded(model).state_dict(), tmp_path / "five.pth")
    for index, image in enumerate(PIXELS):
        (tmp_path / f"set/{index % 4}").mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / f"set/{index % 4}/{index}.npy", image)
    np.savez(tmp_path / "set.npz", images=PIXELS, labels=np.arange(12) % 4)
    (tmp_path / "set/0/bad.npy").write_bytes(b"")
    facts = {"mean": "0.5", "std": "0.25", "heads": "1"}
    images, source = str(tmp_path / "set"), str(tmp_path / "five.pth")
    recipe = ExportRecipe(formats=("onnx",), overrides=facts, images=images, image_count=13)
    said: list[str] = []
    export(source, tmp_path / "bundle", recipe, progress=said.append)
    assert "note: skipped: 0/bad.npy: the file is empty" in said
    assert any(line.startswith("note: 13 images were asked for, and only 12") for line in said)
    assert validate(tmp_path / "bundle").passed
    rounding = QuantizationRecipe(images=images, image_count=13)
    quantized = quantize(source, tmp_path / "five.pt2", replace(recipe, precision="int8", quantization=rounding))
    assert (quantized.record.images, dict(quantized.record.skipped)) == (12, {"0/bad.npy": "the file is empty"})
    for labelled in (images, str(tmp_path / "set.npz")):
        found = evaluate([str(tmp_path / "bundle"), str(tmp_path / "five.pt2")], EvaluationRequest(labelled))
        assert found.images == 12
        assert len(found.subjects) == 2
    whole = evaluate([str(tmp_path / "bundle")], EvaluationRequest(images, image_count=14))
    assert dict(whole.skipped) == {"0/bad.npy": "the file is empty"}
    assert any("only 12 can be taken" in note for note in whole.notes)
