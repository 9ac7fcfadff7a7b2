# SPDX-License-Identifier: Apache-2.0
"""Image processors of timm and transformers: `processor` and `processor_keys`."""

from __future__ import annotations

import math
from typing import Any

import pytest
from transformers.processing_utils import ImagesKwargs

from vitedge.checkpoints.families.family import Hints
from vitedge.checkpoints.families.processor import find_preprocessing, size_notes
from vitedge.checkpoints.families.processor_keys import (
    DEFAULTS,
    HONOURED,
    IRRELEVANT,
    REFUSED_UNLESS_FALSE,
)
from vitedge.checkpoints.overrides import parse_overrides
from vitedge.errors import BadRecipe, UnknownArchitecture
from vitedge.records import Origin, Preprocessing

TABLE = Preprocessing((0.1, 0.2, 0.3), (1.0, 2.0, 3.0), "bicubic", 0.9, "rgb")


def test_preprocessing_of_timm_leaves_the_rest_to_the_table() -> None:
    config = {"mean": [0.5, 0.5, 0.5], "interpolation": "bilinear", "crop_pct": 0.95}
    found, origins, notes = find_preprocessing(Hints(config=config), TABLE, 3)
    assert found == Preprocessing((0.5, 0.5, 0.5), TABLE.std, "bilinear", 0.95, exif=False, transparency="dropped")
    assert (origins["preprocessing.mean"], origins["preprocessing.std"]) == (Origin.CONFIG, Origin.TABLE)
    assert notes == ()


def test_a_processor_that_flips_channels_normalizes_before_it_does() -> None:
    processor = {
        "do_flip_channel_order": True,
        "do_normalize": True,
        "image_mean": [0.4, 0.5, 0.6],
        "image_std": [1, 2, 3],
        "resample": 2,
        "size": {"shortest_edge": 288},
        "crop_size": {"height": 256, "width": 256},
    }
    found, _, _ = find_preprocessing(Hints(preprocessor=processor), TABLE, 3)
    assert (found.mean, found.std, found.channel_order) == ((0.6, 0.5, 0.4), (3, 2, 1), "bgr")
    assert (found.interpolation, found.crop, found.crop_mode) == ("bilinear", 256 / 288, "center")


def test_a_mean_that_is_not_subtracted_is_nothing() -> None:
    processor = {"do_normalize": False, "image_mean": [0.4, 0.5, 0.6], "image_std": [1, 2, 3]}
    found, origins, _ = find_preprocessing(Hints(preprocessor=processor), TABLE, 3)
    assert (found.mean, found.std) == ((0.0,) * 3, (1.0,) * 3)
    assert origins["preprocessing.mean"] is Origin.CONFIG


def test_grey_images_get_the_average_and_a_crop_beyond_the_image_is_kept() -> None:
    processor = {"size": {"shortest_edge": 224}, "crop_size": 256}
    found, origins, _ = find_preprocessing(Hints(preprocessor=processor), TABLE, 1)
    assert found.mean == (pytest.approx(0.2),)
    assert found.std == (2.0,)
    assert origins["preprocessing.mean"] is Origin.ASSUMED
    assert math.floor(256 / found.crop) == 224


@pytest.mark.parametrize(
    ("processor", "key"),
    [
        ({"do_resize": False}, "do_resize"),
        ({"size": {"longest_edge": 224}}, "size"),
        ({"resample": 5}, "resample"),
        ({"size": {"height": 10**12, "width": 32}}, "size"),
        ({"size": {"shortest_edge": 32}, "crop_size": 10**12}, "crop_size"),
        ({"do_pad": True}, "do_pad"),
        ({"do_sharpen": True}, "do_sharpen"),
        ({"rescale_factor": 0}, "rescale_factor"),
        ({"image_processor_type": "Pix2StructImageProcessor"}, "image_processor_type"),
        ({"size": {"shortest_edge": 64}, "crop_size": {"height": 48, "width": 32}}, "crop_size"),
    ],
)
def test_what_cannot_be_followed_is_refused_by_name(processor: dict[str, Any], key: str) -> None:
    with pytest.raises(UnknownArchitecture, match=f"says {key} = "):
        find_preprocessing(Hints(preprocessor=processor), TABLE, 3)


@pytest.mark.parametrize(("key", "value"), [("interpolation", "random"), ("crop_mode", "fit")])
def test_a_value_of_timm_that_cannot_be_followed_is_refused_by_name(key: str, value: str) -> None:
    with pytest.raises(UnknownArchitecture, match=f"says {key} = '{value}'"):
        find_preprocessing(Hints(config={key: value}), TABLE, 3)


@pytest.mark.parametrize("name", DEFAULTS)
def test_every_key_of_transformers_is_known_and_every_default_its_own(name: str) -> None:
    processor = getattr(pytest.importorskip("transformers"), f"{name}ImageProcessor")
    written = processor().to_dict()
    assert (
        set(processor.valid_kwargs.__annotations__) | set(ImagesKwargs.__annotations__) | set(written)
        <= HONOURED | IRRELEVANT | REFUSED_UNLESS_FALSE
    )
    for key in HONOURED & set(written) - {"image_processor_type", "default_to_square"}:
        if written[key] is not None:
            assert DEFAULTS[name].get(key) == pytest.approx(written[key]), key


@pytest.mark.parametrize(("given", "exif"), [("false", False), ("True", True), (False, False)])
def test_switches_are_read_as_words(given: str | bool, exif: bool) -> None:
    assert parse_overrides({"exif": given}) == {"exif": exif}


@pytest.mark.parametrize(
    "given", [{"exif": "no"}, {"exif": 0}, {"transparency": "black"}, {"crop_offset": "up"}, {"resizer": "cv2"}]
)
def test_a_word_that_is_no_choice_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(BadRecipe, match=next(iter(given))):
        parse_overrides(given)


@pytest.mark.parametrize(
    ("name", "offset", "resizer"),
    [("CLIPImageProcessorPil", "ceil", "pillow"), ("CLIPImageProcessor", "floor", "torch")],
)
def test_the_class_that_is_named_decides_odd_padding_and_who_resizes(name: str, offset: str, resizer: str) -> None:
    found, _, _ = find_preprocessing(Hints(preprocessor={"image_processor_type": name}), TABLE, 3)
    assert (found.crop_offset, found.resizer) == (offset, resizer)


def test_what_is_given_is_no_guess_of_a_table() -> None:
    given = Hints(overrides={"mean": (0.5,)})
    origins = find_preprocessing(given, Preprocessing((0.1,) * 3, (0.2,) * 3), 3)[1]
    assert origins["preprocessing.mean"] is Origin.GIVEN
    assert origins["preprocessing.std"] is Origin.TABLE


@pytest.mark.parametrize(
    ("processor", "made"),
    [
        ({"size": 48}, "48x48"),
        ({"size": {"height": 64, "width": 48}}, "64x48"),
        ({"size": {"shortest_edge": 64}, "crop_size": 48}, "48x48"),
        ({"image_processor_type": "ViTImageProcessor"}, "224x224"),
        ({"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 48}}, "48x48"),
        ({"size": {"shortest_edge": 48}}, ""),
        ({"size": {"height": 48, "width": 48}, "do_center_crop": True, "crop_size": 32}, ""),
        ({"image_mean": 0.5}, ""),
        ({}, ""),
    ],
)
def test_a_processor_of_another_size_than_the_model_is_noted(processor: dict[str, Any], made: str) -> None:
    notes = size_notes(processor, (32, 32))
    assert [f"makes images of {made}" in note and f"--image-size {made}" in note for note in notes] == [True] * bool(
        made
    )
