# SPDX-License-Identifier: Apache-2.0
"""Tests of `processor`: a damaged key of a processor is refused by its name, or means what it means to transformers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import transformers
from PIL import Image

from tests.vitedge.images.specs import make_spec
from vitedge.checkpoints.families.family import Hints
from vitedge.checkpoints.families.processor import find_preprocessing
from vitedge.checkpoints.families.processor_keys import HONOURED
from vitedge.checkpoints.keys.processor import KINDS, check_processor
from vitedge.errors import UserError
from vitedge.images.preprocess import normalize, prepare_image
from vitedge.records import Preprocessing

NAME = "CLIPImageProcessorPil"
WHOLE: dict[str, Any] = {
    "image_processor_type": NAME,
    "size": {"shortest_edge": 40},
    "crop_size": {"height": 32, "width": 32},
    "image_mean": [0.4, 0.5, 0.6],
    "image_std": [0.2, 0.3, 0.4],
}
DAMAGED: tuple[Any, ...] = (
    *("surprise", [], [1, 2], {"a": 1}, {}, -3, 0, 10**12, float("nan"), 1.5, True, False, None),
    *([0.5, -0.5, 0.5], [0.5, "a", 0.5], {"height": 32}, [0.5] * 4, [0.5], 0.25),
)
TABLE = Preprocessing((0.5,) * 3, (0.5,) * 3)


@pytest.mark.parametrize("key", sorted(KINDS))
def test_each_key_of_a_processor_damaged_in_turn(key: str) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (47, 53, 3), np.uint8))
    refused = 0
    for value in DAMAGED:
        if key == "image_processor_type" and value is None:
            continue  # without a name it is of no class, and the family's table counts
        stated = {**WHOLE, key: value}
        try:
            check_processor(stated)
            found, _, _ = find_preprocessing(Hints(preprocessor=stated), TABLE, 3)
        except UserError as error:
            told = str(error)
            refused += 1
        else:
            told = ""
        if told:
            assert f"says {key} = " in told or (key == "size" and "says crop_size = " in told), value
            continue
        library = getattr(transformers, NAME)(**{name: entry for name, entry in stated.items() if entry is not None})
        try:
            expected = np.asarray(library(image, return_tensors="np")["pixel_values"][0])
        except ValueError:  # of a list of one number, which vitedge takes for every channel
            assert value == [0.5]
            continue
        spec = replace(make_spec(expected.shape[1:]), preprocessing=found)
        ours = normalize(prepare_image(image, spec)[None], found)[0]
        apart = np.abs(expected - ours) * np.asarray(found.std)[:, None, None] * 255
        assert apart.max() <= 1.01, f"{key} = {value!r} is read otherwise than by transformers"
    assert refused


def test_every_key_that_is_followed_has_a_kind() -> None:
    assert {*HONOURED, "do_pad"} == set(KINDS)
