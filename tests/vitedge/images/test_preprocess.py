# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from timm.data import create_transform

from tests.vitedge.images.specs import make_spec
from vitedge.errors import BadImages, BadRecipe
from vitedge.images.preprocess import as_image, geometry, normalize, prepare_image
from vitedge.records import Preprocessing

PHOTOS = [Image.fromarray(photo) for photo in load_sample_images().images]


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "lanczos", "nearest"])
@pytest.mark.parametrize("crop", [0.875, 0.888, 0.9, 0.95, 1.0])
@pytest.mark.parametrize("size", [(224, 224), (96, 160), (63, 40)])
def test_equals_the_evaluation_transform_bit_for_bit(interpolation: str, crop: float, size: tuple[int, int]) -> None:
    spec = make_spec(size, interpolation=interpolation, crop=crop)
    means = spec.preprocessing.mean, spec.preprocessing.std
    theirs = create_transform((3, *size), crop_pct=crop, interpolation=interpolation, mean=means[0], std=means[1])
    for photo in (*PHOTOS, PHOTOS[0].crop((10, 20, 210, 417)), PHOTOS[1].crop((0, 0, 33, 21))):
        ours = normalize(prepare_image(photo, spec)[None], spec.preprocessing)[0]
        assert torch.equal(torch.from_numpy(ours), theirs(photo))


def test_bgr_is_reversed_before_mean_and_std() -> None:
    batch = np.arange(2 * 3 * 4 * 5, dtype=np.uint8).reshape(2, 3, 4, 5)
    found = normalize(batch, Preprocessing((0.1, 0.2, 0.3), (0.5, 0.25, 0.125), channel_order="bgr"))
    wanted = torch.from_numpy(batch[:, ::-1].copy()).float() / 255
    wanted = (wanted - torch.tensor([0.1, 0.2, 0.3])[:, None, None]) / torch.tensor([0.5, 0.25, 0.125])[:, None, None]
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    assert torch.equal(torch.from_numpy(found), wanted)


def test_exif_orientation_is_honoured(tmp_path) -> None:
    upright = PHOTOS[0].resize((60, 40))
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.rotate(90, expand=True).save(tmp_path / "turned.png", exif=exif)
    spec = make_spec((32, 32))
    with Image.open(tmp_path / "turned.png") as turned:
        assert turned.size == (40, 60)
        assert np.array_equal(prepare_image(turned, spec), prepare_image(upright, spec))


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV", "RGBA", "LA", "PA"])
def test_every_mode_becomes_colour(mode: str) -> None:
    image = PHOTOS[0].resize((50, 40))
    found = prepare_image(
        image.convert("L").convert(mode) if mode in ("LA", "PA") else image.convert(mode), make_spec((32, 32))
    )
    assert found.shape == (3, 32, 32)
    assert found.dtype == np.uint8
    assert found.std() > 10


def test_transparency_is_laid_over_white() -> None:
    clear = Image.new("RGBA", (40, 40), (10, 20, 30, 0))
    half = Image.new("RGBA", (40, 40), (0, 0, 0, 128))
    assert (prepare_image(clear, make_spec((32, 32))) == 255).all()
    assert abs(int(prepare_image(half, make_spec((32, 32))).max()) - 127) <= 1
    palette = Image.new("P", (40, 40), 0)
    palette.info["transparency"] = bytes([0])
    assert (prepare_image(palette, make_spec((32, 32))) == 255).all()


def test_sixteen_bit_grey_is_scaled() -> None:
    ramp = np.linspace(0, 65535, 32 * 32).astype(np.uint16).reshape(32, 32)
    found = prepare_image(Image.fromarray(ramp), make_spec((32, 32), crop=1.0))
    assert found.min() == 0
    assert found.max() == 255
    assert abs(float(found.mean()) - 127.5) < 0.6


def test_unknown_range_is_refused() -> None:
    with pytest.raises(BadImages, match="no known range"):
        prepare_image(Image.new("F", (40, 40)), make_spec((32, 32)))


def test_a_strip_does_not_eat_memory() -> None:
    with pytest.raises(BadImages, match="too long"):
        prepare_image(Image.new("RGB", (60000, 1)), make_spec((224, 224)))


def test_grey_models_get_grey() -> None:
    found = prepare_image(PHOTOS[0], make_spec((32, 32), channels=1))
    assert found.shape == (1, 32, 32)
    with pytest.raises(BadImages, match="4 channels"):
        prepare_image(PHOTOS[0], replace(make_spec((32, 32)), in_channels=4))


@pytest.mark.parametrize(("changed", "said"), [({"interpolation": "box"}, "bicubic"), ({"crop": 0.0}, "crop")])
def test_impossible_preprocessing_is_refused(changed: dict, said: str) -> None:
    with pytest.raises(BadRecipe, match=said):
        prepare_image(PHOTOS[0], make_spec((32, 32), **changed))


@pytest.mark.parametrize(("mean", "std"), [((0.5,), (0.5,)), ((0.5,) * 3, (0.5, 0.5, 0.0))])
def test_mean_and_std_have_to_fit(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    with pytest.raises(BadRecipe, match="3 channels"):
        normalize(np.zeros((1, 3, 4, 4), np.uint8), Preprocessing(mean, std))


def test_arrays_become_images() -> None:
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert np.array_equal(np.asarray(as_image(grey)), grey)
    assert np.array_equal(np.asarray(as_image(grey[..., None])), grey)
    assert as_image(np.zeros((3, 4, 4), np.uint8)).mode == "RGBA"


@pytest.mark.parametrize(
    ("mode", "crop", "said"),
    [
        ("center", 0.875, "by its short side to cover 64 x 36 pixels (bicubic), and cut to the centre."),
        (
            "center",
            1.0,
            "by its short side to cover 56 x 32 pixels (bicubic), and cut to the centre; Vision: centerCrop.",
        ),
        ("squash", 1.0, "to 56 x 32 pixels whatever its aspect (bicubic); Vision: scaleFill."),
        ("squash", 0.5, "to 112 x 64 pixels whatever its aspect (bicubic), and cut to the centre."),
        ("border", 1.0, "by its long side to fit into 56 x 32 pixels, with the mean around it (bicubic)."),
    ],
)
def test_the_geometry_is_said_to_whoever_prepares_a_picture(mode: str, crop: float, said: str) -> None:
    spec = make_spec((32, 56), crop=crop)
    spec = replace(spec, preprocessing=replace(spec.preprocessing, crop_mode=mode))
    assert geometry(spec) == f"A picture is resized {said}"
