# SPDX-License-Identifier: Apache-2.0
"""Tests of `vitedge.program.float16` and `vitedge.program.attention`."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from vitedge.program.attention import attention_scale
from vitedge.program.float16 import (
    FLOAT16_MAX,
    SMALLEST_NORMAL,
    attention_scores,
    magnitude,
    sum_of_magnitudes,
    sum_of_squared_deviations,
    sum_of_squares,
    tanh_gelu_cube,
)

VALUE = torch.tensor([[1.0, -3.0], [2.0, 2.0]])


def test_the_limits_are_those_of_binary16() -> None:
    assert np.finfo(np.float16).max == FLOAT16_MAX
    assert np.finfo(np.float16).smallest_normal == SMALLEST_NORMAL


def test_the_magnitude_is_that_of_the_largest_and_shows_what_is_not_a_number() -> None:
    assert magnitude(VALUE) == 3
    assert magnitude(torch.zeros(0)) == 0
    assert math.isnan(magnitude(torch.tensor([1.0, math.nan])))


def test_sums_are_taken_along_the_axes() -> None:
    assert (sum_of_magnitudes(VALUE, (1,)), sum_of_magnitudes(VALUE, (0,)), sum_of_magnitudes(VALUE, ())) == (4, 5, 3)
    assert (sum_of_squares(VALUE, (1,)), sum_of_squares(VALUE, range(2))) == (10, 18)
    assert (sum_of_squared_deviations(VALUE, (1,)), sum_of_squared_deviations(VALUE, ())) == (8, 0)


def test_the_cube_of_a_gelu_is_that_of_its_largest_input() -> None:
    assert tanh_gelu_cube(VALUE) == 27


@pytest.mark.parametrize("scale", [None, 0.125, 0.0])
def test_the_scale_of_scores_is_the_given_one_or_that_of_pytorch(scale: float | None) -> None:
    query, key = torch.randn(2, 1, 3, 4, 8, generator=torch.Generator().manual_seed(0))
    scores = query @ key.mT * attention_scale(8, scale)
    assert attention_scores(query, key, scale) == pytest.approx(float(scores.abs().max()))
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, key, scale=scale)
    torch.testing.assert_close(scores.softmax(-1) @ key, expected)
