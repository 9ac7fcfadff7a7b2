# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import time

import pytest

from vitedge.errors import BadRecipe
from vitedge.latency.sampling import Rule, Samples, measure

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


def test_times_are_milliseconds_of_the_call_alone() -> None:
    found = measure(lambda: time.sleep(0.005), QUICK)
    assert len(found.raw_ms) == 30
    assert found.warmup >= 4
    assert 5.0 <= min(found.raw_ms) < 7.0
