# SPDX-License-Identifier: Apache-2.0
"""Images of odd sizes and modes through timm's and transformers' own transforms and `vitedge.images.preprocess`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.releases import older
from tests.vitedge.images.specs import make_spec
from vitedge.checkpoints.families.family import Hints
from vitedge.checkpoints.families.processor import find_preprocessing
from vitedge.images.preprocess import normalize, prepare_image
from vitedge.records import ModelSpec, Preprocessing

MODES = ("RGB", "L", "LA", "P", "RGBA", "CMYK", "1", "clear", "I;16", "EXIF")
SIZES = ((65, 97), (33, 21), (47, 48), (120, 50), (32, 32))
TABLE = Preprocessing((0.5,) * 3, (0.5,) * 3)


def _image(mode: str, size: tuple[int, int], seed: int) -> Image.Image:
    """An image of a mode; ``clear`` is a palette with a transparent colour, ``EXIF`` one to be rotated."""
    random = np.random.default_rng(seed)
    colour = Image.fromarray(random.integers(0, 256, (7, 9, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    if mode == "I;16":
        return Image.fromarray(np.asarray(colour.convert("L")).astype(np.uint16) * 257)
    if mode == "EXIF":
        colour.getexif()[0x0112] = 1 + seed % 8
        return colour
    if mode == "clear":
        paletted = colour.quantize(16)
        paletted.info["transparency"] = 3
        return paletted
    if mode in ("LA", "RGBA"):
        colour = colour.convert(mode)
        colour.putalpha(Image.fromarray(random.integers(0, 256, size[::-1], dtype=np.uint8)))
        return colour
    return colour.convert(mode)


def _odd_image(mode: str, size: tuple[int, int], seed: int) -> Image.Image:
    """An image of a further kind: noise, a mode to be rotated, or one with PNG's transparent colour (``keyed``)."""
    if mode == "noise":
        return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
    image = _image(mode.rsplit(maxsplit=1)[-1], size, seed)
    if mode.startswith("rotated"):
        image.getexif()[0x0112] = 1 + seed % 8
    if mode.startswith("keyed"):
        image.info["transparency"] = image.getpixel((0, 0))
    return image


IMAGES = [_image(mode, size, 10 * i + j) for i, mode in enumerate(MODES) for j, size in enumerate(SIZES)]
"""50 images; each is taken through every transform below."""

ODD_MODES = (*MODES, "PA", "keyed RGB", "keyed L", "rotated RGBA", "rotated P", "noise")
ODD_SIZES = (*SIZES, (31, 257), (7, 5), (301, 199), (64, 64), (33, 34), (1, 40), (40, 3), (97, 98))
ODD_IMAGES = [
    _odd_image(mode, size, 13 * i + j) for i, mode in enumerate(ODD_MODES) for j, size in enumerate(ODD_SIZES)
]
"""208 images of sizes, modes, rotations and transparencies that people have."""


def _levels(image: Image.Image, spec: ModelSpec) -> np.ndarray[Any, Any]:
    """The model's input, in levels of 255."""
    found = normalize(prepare_image(image, spec)[None], spec.preprocessing)[0]
    return found * np.asarray(spec.preprocessing.std)[:, None, None] * 255


def _plain(image: Image.Image) -> Image.Image:
    """Returns 16-bit grey with 8 bits, which the libraries clip."""
    return Image.fromarray((np.asarray(image) // 257).astype(np.uint8)) if image.mode == "I;16" else image


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize(("size", "crop"), [((32, 32), 0.875), ((32, 48), 1.0), ((32, 32), 1.2)])
def test_timm(interpolation: str, mode: str, size: tuple[int, int], crop: float) -> None:
    _check_timm({"interpolation": interpolation, "crop_pct": crop, "crop_mode": mode}, size, IMAGES)


def _check_timm(keys: dict[str, Any], size: tuple[int, int], images: list[Image.Image]) -> None:
    create_transform = pytest.importorskip("timm.data").create_transform
    config = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4], **keys}
    found, _, _ = find_preprocessing(Hints(config=config), TABLE, 3)
    spec = replace(make_spec(size), preprocessing=found)
    transform = create_transform((3, *size), is_training=False, **config)
    for image in images:
        expected = transform(_plain(image).convert("RGB")).numpy() * np.asarray(found.std)[:, None, None] * 255
        apart = np.abs(expected - _levels(image, spec)).max()
        assert apart <= 1.001, (image.mode, image.size, image.info, apart)


PROCESSORS: list[tuple[str, dict[str, Any]]] = [
    ("ViT", {"size": {"height": 32, "width": 32}}),
    ("ViT", {"size": {"height": 32, "width": 32}, "resample": 3, "do_normalize": False}),
    ("ViT", {"size": {"height": 32, "width": 32}, "do_rescale": False, "image_mean": 127.5, "image_std": 127.5}),
    ("ViT", {"size": {"height": 32, "width": 32}, "rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3}),
    ("DeiT", {"size": {"height": 37, "width": 37}, "crop_size": {"height": 32, "width": 32}}),
    ("Beit", {"size": {"height": 32, "width": 32}}),
    ("Bit", {"size": {"shortest_edge": 37}, "crop_size": {"height": 32, "width": 32}}),
    ("CLIP", {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}),
    ("CLIP", {"size": {"shortest_edge": 26}, "crop_size": {"height": 32, "width": 32}}),
    ("Siglip", {"size": {"height": 32, "width": 32}}),
    ("ConvNext", {"size": {"shortest_edge": 32}, "crop_pct": 0.8}),
    ("Levit", {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}),
    ("MobileViT", {"size": {"shortest_edge": 37}, "crop_size": {"height": 32, "width": 32}}),
]


PADDED: list[tuple[str, dict[str, Any]]] = [
    *(("CLIP", {"size": {"shortest_edge": edge}, "crop_size": {"height": 32, "width": 32}}) for edge in (15, 25, 31)),
    ("DeiT", {"size": {"height": 25, "width": 25}, "crop_size": {"height": 32, "width": 32}}),
]
"""A centre crop that is larger than the image, by odd margins: the two classes of a processor differ."""


def _check_processor(name: str, suffix: str, keys: dict[str, Any], images: list[Image.Image]) -> None:
    """Compares a class with what is read of a file that names it."""
    processor = getattr(pytest.importorskip("transformers"), f"{name}ImageProcessor{suffix}")(**keys)
    stated = {"image_processor_type": type(processor).__name__, **keys}
    found, _, _ = find_preprocessing(Hints(preprocessor=stated), TABLE, 3)
    spec = replace(make_spec((32, 32)), preprocessing=found)
    scale = np.asarray(found.std)[:, None, None] * 255
    for image in images:
        if older("transformers", 5, 21) and ("A" in image.getbands() or "transparency" in image.info):
            continue  # older releases drop transparency, which newer ones lay over white
        loaded = ImageOps.exif_transpose(_plain(image))  # as transformers.image_utils.load_image does
        if found.transparency == "dropped":
            loaded = loaded.convert("RGB")
        expected = np.asarray(processor(loaded, return_tensors="np")["pixel_values"][0]) * scale
        apart = np.abs(expected - _levels(image, spec)).max()
        assert apart <= 1.01, (image.mode, image.size, image.info, apart)


@pytest.mark.parametrize("suffix", ["Pil", ""])
@pytest.mark.parametrize(("name", "keys"), PROCESSORS + PADDED)
def test_transformers(name: str, keys: dict[str, Any], suffix: str) -> None:
    """With ``Pil``, the class where torchvision is missing; without, the one that AutoImageProcessor gives with it."""
    _check_processor(name, suffix, keys, IMAGES[::2] if suffix else IMAGES[: len(SIZES)])


@pytest.mark.parametrize(("interpolation", "resample"), [("bilinear", 2), ("bicubic", 3)])
def test_two_hundred_odd_images(interpolation: str, resample: int) -> None:
    assert len(ODD_IMAGES) >= 200
    _check_timm({"interpolation": interpolation, "crop_pct": 0.875, "crop_mode": "center"}, (32, 32), ODD_IMAGES)
    _check_timm({"interpolation": interpolation, "crop_pct": 0.9, "crop_mode": "squash"}, (32, 32), ODD_IMAGES)
    squash = {"size": {"height": 32, "width": 32}, "resample": resample}
    short = {"size": {"shortest_edge": 37}, "crop_size": {"height": 32, "width": 32}, "resample": resample}
    for suffix in ("Pil", ""):
        _check_processor("ViT", suffix, squash, ODD_IMAGES)
        _check_processor("CLIP", suffix, short, ODD_IMAGES)
