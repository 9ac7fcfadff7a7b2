# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.latency_statistics import TRUE, pair, student_widths
from vitedge.latency.bootstrap import MOST_BLOCKS, _centers, interval, student_quantile


@pytest.mark.parametrize(("freedom", "expected"), [(4, 2.776), (7, 2.365), (19, 2.093), (39, 2.023), (398, 1.966)])
def test_students_quantiles_are_those_of_the_tables(freedom: int, expected: float) -> None:
    assert student_quantile(freedom) == pytest.approx(expected, abs=0.001)


@pytest.mark.parametrize("rounds", [1, 2, 5, 8, 31, 32])
def test_the_estimate_of_a_resample_is_that_of_its_pairs(rounds: int) -> None:
    rng = np.random.default_rng(rounds)
    values, draws = rng.normal(size=rounds), rng.integers(0, rounds, (50, rounds))
    first, second = np.triu_indices(rounds)
    expected = [np.median((values[draw][first] + values[draw][second]) / 2) for draw in draws]
    counts = np.stack([np.bincount(draw, minlength=rounds) for draw in draws], axis=1).astype(np.int16)
    assert _centers(values, counts) == pytest.approx(np.array(expected))


@pytest.mark.parametrize(("rounds", "samples"), [(5, 10), (8, 5), (20, 10)])
def test_it_covers_the_truth_as_often_as_it_says_and_is_no_wider_than_it_has_to_be(rounds: int, samples: int) -> None:
    """Students of the rounds' medians are as sharp as paired rounds allow; of all samples' means, as they do at all."""
    rng = np.random.default_rng(0)
    covered, widths = 0, np.zeros(3)
    for _ in range(500):
        mine, theirs = pair("normal", rng, rounds, samples)
        low, middle, high = interval(np.log(np.median(mine, axis=1) / np.median(theirs, axis=1)), rng)
        assert low <= middle <= high
        covered += low <= math.log(TRUE) <= high
        widths += high - low, *student_widths(mine, theirs)
    assert 0.93 <= covered / 500 <= 0.975
    assert widths[0] / widths[2] < 1.1
    if rounds == 20:
        assert widths[0] / widths[1] < 1.3


def test_neighbours_of_many_rounds_are_one_block() -> None:
    logs = np.random.default_rng(0).normal(size=3 * MOST_BLOCKS)
    low, middle, high = interval(logs, np.random.default_rng(0))
    assert middle == pytest.approx(logs.mean(), abs=0.05)
    assert high - low == pytest.approx(2 * 1.96 / math.sqrt(logs.size), rel=0.35)


def test_a_single_round_has_no_spread() -> None:
    assert interval(np.array([0.5]), np.random.default_rng(0)) == (0.5, 0.5, 0.5)
