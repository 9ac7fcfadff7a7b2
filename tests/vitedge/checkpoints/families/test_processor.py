# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from vitedge.checkpoints.families.family import Hints
from vitedge.checkpoints.families.processor import find_preprocessing
from vitedge.records import Origin, Preprocessing

TABLE = Preprocessing((0.1, 0.2, 0.3), (1.0, 2.0, 3.0), "bicubic", 0.9, "rgb")


def test_preprocessing_of_timm_leaves_the_rest_to_the_table() -> None:
    config = {"mean": [0.5, 0.5, 0.5], "interpolation": "bilinear", "crop_pct": 0.95}
    found, origins, notes = find_preprocessing(Hints(config=config), TABLE, 3)
    assert found == Preprocessing((0.5, 0.5, 0.5), TABLE.std, "bilinear", 0.95, "rgb")
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
    assert found == Preprocessing((0.6, 0.5, 0.4), (3, 2, 1), "bilinear", 256 / 288, "bgr")


def test_a_mean_that_is_not_subtracted_is_not_taken() -> None:
    processor = {"do_normalize": False, "image_mean": [0.4, 0.5, 0.6], "image_std": [1, 2, 3]}
    found, origins, _ = find_preprocessing(Hints(preprocessor=processor), TABLE, 3)
    assert (found.mean, found.std) == (TABLE.mean, TABLE.std)
    assert origins["preprocessing.mean"] is Origin.TABLE


def test_grey_images_get_the_average_and_a_crop_beyond_the_image_a_note() -> None:
    processor = {"size": {"shortest_edge": 224}, "crop_size": 256}
    found, origins, notes = find_preprocessing(Hints(preprocessor=processor), TABLE, 1)
    assert found.mean == (pytest.approx(0.2),)
    assert found.std == (2.0,)
    assert origins["preprocessing.mean"] is Origin.ASSUMED
    assert found.crop == 1.0
    assert "crops more than it resizes to (1.14)" in notes[0]
