# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from vitedge.errors import BadRecipe
from vitedge.latency.sampling import Rule, Samples, burst, measure, settled, warm_up

QUICK = Rule(warmup_s=0.02, warmup_limit_s=0.1, samples=30, seconds=1.0)


def test_drift_and_an_unsettled_warm_up_make_a_result_unstable() -> None:
    steady, hot = (10.0,) * 90, (10.0,) * 45 + (10.4,) * 45
    assert Samples(steady, 20, settled=True).stable
    assert not Samples(steady, 20, settled=False).stable
    assert not Samples(hot, 20, settled=True).stable


@pytest.mark.parametrize("wrong", [{"samples": 0}, {"rounds": 0}, {"seconds": 0.0}, {"warmup_s": -1.0}])
def test_an_empty_rule_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(BadRecipe):
        Rule(**wrong)  # type: ignore[arg-type]


def test_settled_wants_two_windows_alike() -> None:
    noise = np.random.default_rng(0).normal(10, 0.01, 40)
    assert settled(list(noise), 0.02)
    assert not settled(list(noise[:9]), 0.02), "too few to tell"
    assert not settled([*noise[:20], *(noise[20:] + 1)], 0.02), "the median moved"
    wild = np.random.default_rng(0).normal(10, 1, 20)
    assert not settled([*wild, *noise[:20]], 0.02), "the spread is still shrinking"
    assert settled([100.0, 50.0, *noise], 0.02), "what the first runs cost is past"


def paced(milliseconds: Iterator[float]) -> None:
    end = time.perf_counter() + next(milliseconds) / 1e3
    while time.perf_counter() < end:
        pass


def test_warm_up_lasts_its_time_and_ends_when_settled() -> None:
    begin = time.perf_counter()
    count, ended_settled = warm_up(lambda: time.sleep(0.001), Rule(warmup_s=0.1, warmup_limit_s=5.0, settle=0.5))
    assert 0.1 <= time.perf_counter() - begin < 4.0
    assert ended_settled
    assert count >= 10


def test_warm_up_gives_up_at_its_limit() -> None:
    growing = iter(1.1**step for step in range(1000))
    begin = time.perf_counter()
    _, ended_settled = warm_up(lambda: paced(growing), Rule(warmup_s=0.05, warmup_limit_s=0.3))
    assert not ended_settled
    assert 0.3 <= time.perf_counter() - begin < 1.5


def test_a_slow_model_warms_up_by_a_few_runs() -> None:
    """Two windows of five do not fit into its limit, and so would never have settled."""
    rule = Rule(warmup_s=0.01, warmup_limit_s=0.05, settle=0.2)
    assert warm_up(lambda: time.sleep(0.04), rule) == (4, True)
    heating = iter((40.0, 60.0, 80.0, 100.0))
    assert warm_up(lambda: paced(heating), rule) == (4, False)
    assert warm_up(lambda: time.sleep(0.04), replace(rule, patience_s=0.02))[0] <= 2


def test_burst_ends_at_its_count_or_its_time() -> None:
    assert len(burst(lambda: None, 17, 10.0)) == 17
    assert 1 <= len(burst(lambda: time.sleep(0.02), 1000, 0.1)) <= 6
    assert len(burst(lambda: None, 5, 0.0)) == 1


def test_times_are_milliseconds_of_the_call_alone() -> None:
    found = measure(lambda: time.sleep(0.005), QUICK)
    assert len(found.raw_ms) == 30
    assert found.warmup >= 4
    assert 5.0 <= min(found.raw_ms) < 7.0
