# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from benchmarks.latency_statistics import SHAPES, shape
from vitedge.latency.distribution import count_outliers, modes, resolution

RNG = np.random.default_rng(0)
NORMAL = list(3 + 0.05 * RNG.normal(size=200))
TWO = list(np.where(RNG.random(200) < 0.6, 3.1, 4.4) + 0.05 * RNG.normal(size=200))


@pytest.mark.parametrize("name", SHAPES)
def test_two_modes_are_seen_where_there_are_two(name: str) -> None:
    found = shape(name, 200, 60)
    assert found.found >= 0.9 if found.has_two else found.found <= 0.05


def test_modes_come_with_their_places_and_shares() -> None:
    faster, slower = modes(TWO)
    assert (faster.center_ms, slower.center_ms) == (pytest.approx(3.1, abs=0.02), pytest.approx(4.4, abs=0.02))
    assert faster.share == pytest.approx(0.6, abs=0.07)
    assert faster.share + slower.share == pytest.approx(1)
    assert modes(sorted(TWO)) == modes(TWO)


def test_outliers_do_not_hide_modes_and_are_none() -> None:
    assert len(modes([*TWO, 30.0, 40.0, 50.0])) == 2
    assert modes([*NORMAL, 30.0, 40.0, 50.0]) == ()


@pytest.mark.parametrize(
    "samples",
    [TWO[:59], [3.1, 3.2] * 50, [3.0] * 100, [0.0] * 100, [3.0] * 95 + [4.0] * 5],
    ids=["few", "ticks of a clock", "one value", "no time at all", "a tail"],
)
def test_what_looks_like_two_modes_and_is_not(samples: list[float]) -> None:
    assert modes(samples, resolution(samples)) == ()


def test_outliers_are_counted_from_the_fences_of_their_mode() -> None:
    assert count_outliers(NORMAL) == 0
    assert count_outliers([*NORMAL, 2.0, 5.0]) == 2
    assert count_outliers([*NORMAL[:18], 5.0]) == 0, "the quartiles of so few are chance"
    assert count_outliers([*TWO, 1.0, 9.0], modes(TWO)) == 2
    few_slow = [*NORMAL[:170], *(sample + 1.5 for sample in NORMAL[170:])]
    assert count_outliers(few_slow, modes(few_slow)) == 0


def test_a_step_of_the_clock_beside_the_usual_value_is_no_outlier() -> None:
    samples = [3.1] * 80 + [3.2] * 20
    assert count_outliers(samples, (), resolution(samples)) == 0
    assert count_outliers([*samples, 3.9], (), resolution(samples)) == 1


@pytest.mark.parametrize("step", [0.001, 0.0417, 0.1])
def test_the_step_of_a_clock_shows_in_ties(step: float) -> None:
    assert resolution(list(np.round(np.array(NORMAL) / step) * step)) == pytest.approx(
        step if step > 0.001 else 0, abs=1e-6
    )
    assert resolution(list(np.round(np.array(NORMAL * 20) / step) * step)) == pytest.approx(step, abs=1e-6)


def test_no_ties_no_step() -> None:
    assert resolution(NORMAL) == 0.0
    assert resolution([3.0] * 50) == 0.0
    assert resolution([3.0]) == 0.0
    assert resolution([3.1] * 99 + [5.0]) == 0.0, "3.1 is no multiple of 1.9"
