# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from tests.export.tiny import spec
from vitedge.quantization.attention.measures import (
    dead_fraction,
    distance,
    distance_to_centroid,
    divergence,
    entropy,
    prefix_tokens,
    round_to_levels,
    spatial,
    token_map,
)

TOKENS = (50, 65, 197, 730)


def uniform(tokens: int) -> torch.Tensor:
    return torch.full((1, 2, 3, tokens), 1 / tokens)


@pytest.mark.parametrize("tokens", TOKENS)
def test_uniform_rows_have_the_logarithm_of_their_length_as_entropy(tokens: int) -> None:
    found = entropy(uniform(tokens))
    assert found.shape == (1, 2, 3)
    torch.testing.assert_close(found, torch.full((1, 2, 3), math.log(tokens)))


def test_rows_with_one_entry_have_no_entropy() -> None:
    assert torch.equal(entropy(torch.eye(9)), torch.zeros(9))


@pytest.mark.parametrize("shape", [(1, 5), (4, 4), (3, 7)])
def test_uniform_attention_on_a_map_has_the_mean_distance_of_two_of_its_places(shape: tuple[int, int]) -> None:
    """The mean distance of two of n positions on a line is ``(n^2 - 1) / 3n`` positions."""
    height, width = shape
    tokens = height * width
    mean = float(distance(torch.full((tokens, tokens), 1 / tokens), shape).mean())
    assert mean == pytest.approx((1 - height**-2) / 3 + (1 - width**-2) / 3)


def test_distance_is_counted_in_widths_and_heights() -> None:
    """Three rows of five places: token 9 is the end of the second row."""
    assert torch.equal(distance(torch.eye(15), (3, 5)), torch.zeros(15))
    attention = torch.zeros(15, 15)
    attention[0, 9] = 1
    assert float(distance(attention, (3, 5))[0]) == pytest.approx(1 / 3 + 4 / 5)


def test_distance_to_the_centroid_of_a_uniform_row_is_the_mean_deviation_of_the_places() -> None:
    """For an even number of positions on a line the distance is a quarter of them."""
    assert float(distance_to_centroid(torch.full((24,), 1 / 24), (4, 6))) == pytest.approx(0.5)
    assert float(distance_to_centroid(torch.eye(24)[7], (4, 6))) == 0.0


def test_spatial_attention_leaves_out_what_has_no_place_and_sums_to_one_again() -> None:
    rows = torch.tensor([[0.2, 0.4, 0.4], [0.5, 0.4, 0.1], [1.0, 0.0, 0.0]])
    torch.testing.assert_close(spatial(rows, 1), torch.tensor([[0.8, 0.2], [0.0, 0.0]]))
    torch.testing.assert_close(spatial(rows[:1], 1, queries=False), torch.tensor([[0.5, 0.5]]))
    assert torch.equal(spatial(rows, 0), rows)


def test_divergence() -> None:
    expected, found = torch.tensor([[0.5, 0.5], [1.0, 0.0]]), torch.tensor([[0.25, 0.75], [1.0, 0.0]])
    exact = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    torch.testing.assert_close(divergence(expected, found), torch.tensor([exact, 0.0]))
    assert torch.isfinite(divergence(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])))


@pytest.mark.parametrize(("tokens", "unsigned", "signed"), list(zip(TOKENS, (5, 4, 1, 0), (3, 2, 1, 0), strict=True)))
def test_a_uniform_row_gets_few_levels_or_none(tokens: int, unsigned: int, signed: int) -> None:
    """The longer the row, the less of it is left: at 730 tokens nothing, for either type."""
    row = uniform(tokens)
    for levels, expected in ((255, unsigned), (127, signed)):
        rounded = round_to_levels(row, levels)
        torch.testing.assert_close(rounded * levels, torch.full_like(row, expected))
        assert dead_fraction(row, rounded) == (1.0 if expected == 0 else 0.0)
        assert float(rounded.sum(dim=-1).mean()) == pytest.approx(tokens * expected / levels)


def test_probability_one_is_on_both_grids() -> None:
    for levels in (255, 127):
        assert float(round_to_levels(torch.tensor(1.0), levels)) == pytest.approx(1.0, abs=1e-6)


def test_what_a_mask_excludes_is_not_dead() -> None:
    row = torch.tensor([0.999, 0.001, 0.0, math.exp(-100)])
    assert dead_fraction(row, round_to_levels(row, 127)) == 0.5


@pytest.mark.parametrize(
    ("family", "prefix", "image", "tokens", "expected"),
    [
        ("vit", ("class",), (224, 224), 197, (14, 14)),
        ("vit", ("class", "distillation"), (224, 224), 198, (14, 14)),
        ("vit", ("class",), (224, 160), 141, (14, 10)),
        ("vit", ("class",), (160, 224), 141, (10, 14)),
        ("vit", ("class", "register"), (224, 224), 201, (14, 14)),
        ("pit", ("class",), (224, 224), 730, (27, 27)),
        ("swin", (), (224, 112), 49, (7, 7)),
        ("mobilevit", (), (256, 256), 64, (8, 8)),
        ("vit", ("class",), (224, 224), 198, None),
        ("vit", ("class",), (224, 224), 1, None),
    ],
)
def test_tokens_form_a_map_of_the_images_shape(
    family: str, prefix: tuple[str, ...], image: tuple[int, int], tokens: int, expected: tuple[int, int] | None
) -> None:
    one = replace(spec("vit"), family=family, tokens=prefix, image_size=image, options={"registers": 4})
    assert token_map(one, tokens) == expected


def test_families_without_a_class_token_have_no_prefix() -> None:
    assert prefix_tokens(spec("vit")) == 1
    assert prefix_tokens(spec("mobilevit")) == 0
