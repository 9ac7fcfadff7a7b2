# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import pytest
import torch

from vitedge.checkpoints.families.configuration import (
    edges,
    find_activation,
    find_image_size,
    find_labels,
    find_preprocessing,
    mlp_ratio,
    shape_of,
)
from vitedge.checkpoints.families.family import Hints
from vitedge.errors import UnknownArchitecture, WeightsMismatch
from vitedge.records import Origin, Preprocessing

TABLE = Preprocessing((0.1, 0.2, 0.3), (1.0, 2.0, 3.0), "bicubic", 0.9, "rgb")


def test_a_missing_weight_is_named() -> None:
    assert shape_of({"head.weight": torch.zeros(5, 3)}, "head.weight") == (5, 3)
    with pytest.raises(WeightsMismatch, match=r"lacks the weight head\.bias"):
        shape_of({}, "head.bias")


def test_a_ratio_gives_exactly_the_hidden_width() -> None:
    assert all(
        int(width * mlp_ratio(hidden, width)) == hidden for width in range(1, 200) for hidden in (1, 7, 3 * width)
    )


def test_an_activation_is_the_configurations_or_the_tables() -> None:
    assert find_activation(Hints(config={"hidden_act": "swish"}), "gelu") == ("silu", Origin.CONFIG)
    assert find_activation(Hints(), "gelu") == ("gelu", Origin.TABLE)
    with pytest.raises(UnknownArchitecture, match="'gelu_10'; known are gelu"):
        find_activation(Hints(config={"hidden_act": "gelu_10"}), "gelu")


@pytest.mark.parametrize(
    ("hints", "expected"),
    [
        (Hints(overrides={"image_size": 32}, config={"image_size": 64}), ((32, 32), Origin.GIVEN)),
        (Hints(config={"input_size": [3, 48, 64]}), ((48, 64), Origin.CONFIG)),
        (Hints(preprocessor={"crop_size": {"height": 48, "width": 64}}), ((48, 64), Origin.CONFIG)),
        (Hints({"image_size": 96}, {"crop_size": 48, "do_center_crop": False}), ((96, 96), Origin.CONFIG)),
        (Hints(), None),
    ],
)
def test_an_image_size_is_the_users_before_a_configurations(hints: Hints, expected: object) -> None:
    assert find_image_size(hints) == expected


@pytest.mark.parametrize("size", [64, 64.0, (64, 64), {"height": 64, "width": 64}, {"shortest_edge": 64}])
def test_every_spelling_of_a_size_is_read(size: Any) -> None:
    assert edges(size) == (64, 64)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"id2label": {"10": "k", "2": "c", "0": "a"}}, ("a", "c", "k")),  # by number, not as text
        ({"label_names": ["a", "b", "c"]}, ("a", "b", "c")),
        ({"id2label": {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}}, ()),
        ({"label_names": ["a", "b"]}, ()),
        ({}, ()),
    ],
)
def test_labels_are_taken_where_they_name_every_class(config: dict[str, Any], expected: tuple[str, ...]) -> None:
    assert find_labels(Hints(config=config), 3) == expected


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
