# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import numpy as np
import pytest

from vitedge.files.plain import from_dict, to_dict
from vitedge.latency.statistics import quantiles, ratio
from vitedge.records import LatencyRatio, Quantiles


def ramp(count: int) -> list[float]:
    """1 to count, in an order that has no drift."""
    return [float(value) for value in np.random.default_rng(0).permutation(count) + 1]


def by_hand(samples: list[float], share: float) -> float:
    """Type 7 quantile, written out from its definition."""
    ordered, place = sorted(samples), share * (len(samples) - 1)
    below = math.floor(place)
    above = min(below + 1, len(samples) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def test_quantiles_are_those_of_the_definition() -> None:
    samples = list(np.random.default_rng(3).lognormal(size=217))
    found = quantiles(samples)
    assert found.minimum == min(samples)
    assert found.median == pytest.approx(by_hand(samples, 0.5))
    assert found.mean == pytest.approx(sum(samples) / 217)
    assert found.p90 == pytest.approx(by_hand(samples, 0.90))
    assert found.p95 == pytest.approx(by_hand(samples, 0.95))
    assert found.p99 == pytest.approx(by_hand(samples, 0.99))
    spread = math.sqrt(sum((value - found.mean) ** 2 for value in samples) / 216)
    assert found.cov == pytest.approx(spread / found.mean)
    assert (found.std, found.maximum) == (pytest.approx(spread), max(samples))


@pytest.mark.parametrize(
    ("count", "p95", "p99"), [(39, False, False), (40, True, False), (99, True, False), (100, True, True)]
)
def test_a_tail_needs_samples_that_carry_it(count: int, p95: bool, p99: bool) -> None:
    found = quantiles(ramp(count))
    assert (found.p95 is not None, found.p99 is not None) == (p95, p99)


def test_one_outlier_is_kept() -> None:
    found = quantiles([1.0] * 199 + [1000.0])
    assert found.mean == pytest.approx(5.995)
    assert found.p99 == pytest.approx(1.0)
    assert found.median == 1.0
    assert (found.outliers, found.maximum) == (1, 1000.0)


def test_the_shape_is_in_the_record() -> None:
    rng = np.random.default_rng(2)
    found = quantiles(list(np.round(np.where(rng.random(300) < 0.6, 3.1, 4.4) + 0.05 * rng.normal(size=300), 2)))
    assert [round(mode.center_ms, 1) for mode in found.modes] == [3.1, 4.4]
    assert found.modes[0].share == pytest.approx(0.6, abs=0.05)
    assert found.resolution_ms == pytest.approx(0.01)
    assert quantiles([1.0]).std is None


def test_records_of_earlier_versions_are_read() -> None:
    now = to_dict(quantiles(ramp(30))), to_dict(ratio(("a", [[1.0], [2.0]]), ("b", [[2.0], [3.0]])))
    added = ("std", "maximum", "outliers", "modes", "resolution_ms", "reason")
    earlier = [{name: value for name, value in entries.items() if name not in added} for entries in now]
    assert from_dict(Quantiles, earlier[0]).std is None
    assert from_dict(LatencyRatio, earlier[1]).reason == ""


def test_drift_is_the_last_third_against_the_first() -> None:
    assert quantiles([10.0] * 30 + [10.5] * 30 + [11.0] * 30).drift == pytest.approx(0.10)
    assert quantiles([10.0] * 30 + [99.0] * 30 + [10.0] * 30).drift == pytest.approx(0.0)
    assert quantiles([7.0]).drift == 0.0


def test_no_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="no latency samples"):
        quantiles([])


def rounds(rng: np.random.Generator, scale: float, shared: np.ndarray, samples: int = 10) -> list[list[float]]:
    """Skewed latencies around ``scale`` whose rounds share a disturbance."""
    return [list(scale * level * (1 + rng.exponential(0.05, samples))) for level in shared]


def test_ratio_is_the_typical_one_of_the_medians_within_a_round() -> None:
    mine, theirs = [[3.0, 5.0], [4.0], [90.0]], [[1.0], [2.0, 9.0, 2.0], [45.0, 46.0, 44.0]]
    found = ratio(("a", mine), ("b", theirs))  # 4, 2 and 2
    assert found.ratio == pytest.approx(math.sqrt(2.0 * math.sqrt(2.0 * 4.0)))
    assert (found.subject, found.baseline) == ("a", "b")


def test_a_disturbed_round_does_not_move_it() -> None:
    mine, theirs = (rounds(np.random.default_rng(seed), 1.0, np.ones(20)) for seed in (0, 1))
    quiet, disturbed = ratio(("a", mine), ("b", theirs)), ratio(("a", [[99.0] * 10, *mine[1:]]), ("b", theirs))
    assert disturbed.ratio == pytest.approx(quiet.ratio, rel=0.005)
    assert disturbed.verdict == quiet.verdict == "no difference"


@pytest.mark.parametrize(("true", "verdict"), [(0.8, "faster"), (1.25, "slower")])
def test_a_real_difference_is_seen_and_its_interval_covers_it(true: float, verdict: str) -> None:
    rng = np.random.default_rng(7)
    covered = 0
    for seed in range(40):
        shared = rng.lognormal(0, 0.2, 20)  # a busy machine: whole rounds are up to half as slow again
        found = ratio(("a", rounds(rng, true, shared)), ("b", rounds(rng, 1.0, shared)), seed)
        assert found.verdict == verdict
        assert found.low <= found.ratio <= found.high
        covered += found.low <= true <= found.high
    assert covered >= 34


def test_the_same_thing_twice_is_no_difference() -> None:
    rng = np.random.default_rng(11)
    verdicts = []
    for seed in range(40):
        shared = rng.lognormal(0, 0.2, 20)
        verdicts.append(ratio(("a", rounds(rng, 1.0, shared)), ("b", rounds(rng, 1.0, shared)), seed).verdict)
    assert verdicts.count("no difference") >= 36


def test_pairing_is_what_makes_a_small_difference_visible_on_a_busy_machine() -> None:
    rng = np.random.default_rng(5)
    shared = rng.lognormal(0, 0.5, 20)
    mine, theirs = rounds(rng, 1.1, shared), rounds(rng, 1.0, shared)
    paired = ratio(("a", mine), ("b", theirs))
    shuffled = ratio(("a", mine), ("b", [theirs[place] for place in rng.permutation(20)]))
    assert paired.high - paired.low < 0.5 * (shuffled.high - shuffled.low)


def test_a_difference_below_what_two_processes_differ_by_is_none() -> None:
    rng = np.random.default_rng(0)
    mine, theirs = ((scale + 0.001 * rng.random((20, 5))).tolist() for scale in (1.005, 1.0))
    found = ratio(("a", mine), ("b", theirs))
    assert found.low > 1
    assert found.verdict == "no difference"


def test_same_seed_same_interval() -> None:
    rng = np.random.default_rng(1)
    mine, theirs = (rounds(rng, 1.0, np.ones(20)) for _ in range(2))
    assert ratio(("a", mine), ("b", theirs), 3) == ratio(("a", mine), ("b", theirs), 3)
    assert ratio(("a", mine), ("b", theirs), 3) != ratio(("a", mine), ("b", theirs), 4)


def test_rounds_have_to_come_in_pairs() -> None:
    with pytest.raises(ValueError, match="a has 1 rounds and b 2"):
        ratio(("a", [[1.0]]), ("b", [[1.0], [1.0]]))
