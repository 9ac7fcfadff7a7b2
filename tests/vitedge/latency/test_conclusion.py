# SPDX-License-Identifier: Apache-2.0
"""What is concluded from samples whose truth is known; the situations are those of the benchmark."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.latency_statistics import CONCLUSIONS, compare, situation
from vitedge.latency.conclusion import trend

REASONS = {
    "3 % faster at first, 6 % slower at last": "a took 0.98 x the time of b at first, 1.0",
    "the same in two modes of other shares": "a ran 20% of the time in a slower mode, b 70%",
    "less apart than a clock's step, without spread": "all times are equal, so the clock is too coarse for them",
}


@pytest.mark.parametrize("name", CONCLUSIONS)
def test_the_right_thing_is_concluded_with_the_reason(name: str) -> None:
    rng = np.random.default_rng(4)
    for seed in range(4):
        found = compare(*situation(name, rng), seed)
        assert found.verdict == CONCLUSIONS[name]
        assert found.reason.startswith(REASONS[name]) if name in REASONS else not found.reason


def noise(rounds: int, seed: int) -> np.ndarray:
    return 3 + 0.02 * np.random.default_rng(seed).normal(size=(rounds, 10))


def test_four_rounds_are_too_few() -> None:
    found = compare(2 * noise(4, 0), noise(4, 1))
    assert (found.verdict, found.reason) == ("no conclusion", "4 of the 5 rounds that a conclusion needs")
    assert compare(2 * noise(5, 0), noise(5, 1)).verdict == "slower"


def test_a_single_round_is_a_ratio_without_a_conclusion() -> None:
    found = compare(2 * noise(1, 0), noise(1, 1))
    assert found.verdict == "no conclusion"
    assert found.low == found.ratio == found.high


def test_one_model_that_is_measured_later_in_each_round_suffers_from_a_drift_of_both() -> None:
    heating = np.exp(np.linspace(0, 0.5, 8))[:, None]
    found = compare(noise(8, 0) * heating * 1.03, noise(8, 1) * heating)
    assert found.verdict == "no conclusion"
    assert found.reason == "times changed by +7.4% from round to round, and differ by no more"
    assert compare(noise(8, 0) * heating * 1.3, noise(8, 1) * heating).verdict == "slower"


def test_a_difference_that_the_clock_can_make_is_none() -> None:
    mine, theirs = np.full((20, 10), 3.3), np.full((20, 10), 3.2)
    found = compare(mine, theirs)
    assert found.reason == "the clock's step makes errors of up to 3.1%, more than the difference"
    assert found.low < 1 < found.high
    assert compare(mine * 2, theirs).verdict == "slower"


def test_noise_is_no_trend() -> None:
    rng = np.random.default_rng(0)
    for rounds in (5, 8, 20):
        seen = [trend(rng.normal(size=rounds)) for _ in range(300)]
        assert sum(first != last for first, last in seen) <= 9
    first, last = trend(np.linspace(0, 1, 9))
    assert (first, last) == (pytest.approx(1 / 8), pytest.approx(7 / 8))
    assert trend(np.full(6, math.pi)) == (pytest.approx(math.pi), pytest.approx(math.pi))
