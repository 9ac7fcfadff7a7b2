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
    mlp_ratio,
    shape_of,
)
from vitedge.checkpoints.families.family import Hints
from vitedge.errors import UnknownArchitecture, WeightsMismatch
from vitedge.records import Origin


def test_a_missing_weight_is_named() -> None:
    assert shape_of({"head.weight": torch.zeros(5, 3)}, "head.weight") == (5, 3)
    with pytest.raises(WeightsMismatch, match=r"no weight head\.bias"):
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
