# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from tests.vitedge.render.samples import ARTIFACTS, TIMES, latency
from vitedge.latency.statistics import ratio
from vitedge.records import LatencyRatio
from vitedge.verbs.recommend import recommend
from vitedge.verbs.records import FAILED, NOT_MADE, WITHIN, Candidate


def candidate(name: str, size: int = 0, outcome: str = WITHIN, *, timed: bool = True) -> Candidate:
    artifact = None if outcome == NOT_MADE else replace(ARTIFACTS[0], size=size)
    found = Candidate(name, "onnx", name, "", f"vitedge export {name}", outcome, artifact=artifact)
    return replace(found, latency=latency(name, "onnxruntime", stable=True, times=TIMES) if timed else None)


def beside(subject: str, baseline: str, low: float, high: float, verdict: str) -> LatencyRatio:
    return LatencyRatio(subject, baseline, (low * high) ** 0.5, low, high, verdict)


SMALL, MIDDLE, LARGE = candidate("int8", 10), candidate("fp16", 20), candidate("fp32", 40)
FASTER = beside("int8", "fp32", 0.5, 0.6, "faster"), beside("int8", "fp16", 0.4, 0.5, "faster")


def test_the_fastest_is_recommended_where_every_interval_excludes_equality() -> None:
    name, why = recommend((LARGE, MIDDLE, SMALL), (*FASTER, beside("fp16", "fp32", 1.1, 1.2, "slower")))
    assert name == "int8"
    assert "0.55 x the time of fp32, the next (95 % interval 0.50 to 0.60)" in why


@pytest.mark.parametrize("turned", [False, True])
def test_it_does_not_matter_which_of_two_is_the_baseline(turned: bool) -> None:
    large_is_fast = beside("fp32", "int8", 0.5, 0.625, "faster")
    small_is_slow = beside("int8", "fp32", 1.6, 2.0, "slower")
    name, why = recommend((SMALL, LARGE), (small_is_slow if turned else large_is_fast,))
    assert name == "fp32"
    assert "the next (95 % interval 0.50 to 0.6" in why


def test_among_those_that_no_interval_tells_apart_it_is_the_smallest_file() -> None:
    ratios = (
        beside("fp32", "int8", 0.5, 0.6, "faster"),
        beside("fp16", "int8", 0.5, 0.6, "faster"),
        beside("fp16", "fp32", 0.98, 1.03, "no difference"),
    )
    name, why = recommend((LARGE, MIDDLE, SMALL), ratios)
    assert name == "fp16", "int8 is smaller, and slower than both"
    assert "does not tell fp32, fp16 apart" in why


def test_where_nothing_can_be_concluded_it_is_the_smallest_file() -> None:
    ratios = tuple(
        beside(one.name, other.name, 0.5, 0.6, "no conclusion")
        for one, other in combinations((LARGE, MIDDLE, SMALL), 2)
    )
    assert recommend((LARGE, MIDDLE, SMALL), ratios)[0] == "int8"


def test_what_fails_is_left_aside_however_fast_and_small() -> None:
    failed, absent = candidate("int8", 10, FAILED), candidate("w8", 5, NOT_MADE, timed=False)
    slower = beside("fp16", "fp32", 1.1, 1.2, "slower")
    assert recommend((LARGE, MIDDLE, failed, absent), (*FASTER, slower))[0] == "fp32"


def test_nothing_within_tolerance_recommends_nothing() -> None:
    assert recommend((candidate("int8", 10, FAILED), candidate("w8", outcome=NOT_MADE)), ()) == (
        "",
        "nothing is within its tolerance",
    )


def test_without_times_it_is_the_smallest_file_and_says_so() -> None:
    untimed = tuple(candidate(name, size, timed=False) for name, size in (("fp32", 40), ("fp16", 20), ("int8", 30)))
    name, why = recommend(untimed, ())
    assert name == "fp16"
    assert "no time was measured" in why


def test_what_was_timed_goes_before_what_was_not() -> None:
    name, why = recommend((LARGE, candidate("coreml", 1, timed=False)), ())
    assert name == "fp32"
    assert "the only one within tolerance that was timed" in why


def test_the_only_one_within_tolerance_is_recommended() -> None:
    assert recommend((LARGE, candidate("int8", 10, FAILED)), ())[1] == "it is the only one within tolerance"


def test_measurements_of_the_same_times_give_the_same_choice() -> None:
    """Three runs of models whose times differ by 40 %, 20 % and nothing, on a machine that wanders by 30 %."""
    for seed in range(3):
        chance = np.random.default_rng(seed)
        wander = 1 + 0.3 * chance.random(20)
        rounds = {
            one.name: [list(time * pace * (1 + 0.02 * chance.standard_normal(10))) for pace in wander]
            for one, time in ((LARGE, 1.0), (MIDDLE, 1.0), (SMALL, 1.4))
        }
        ratios = [ratio((one, rounds[one]), (other, rounds[other])) for one, other in combinations(rounds, 2)]
        assert recommend((LARGE, MIDDLE, SMALL), ratios)[0] == "fp16"
