# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from vitedge.latency.timing import burst, settled, warm_up


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
    count, ended_settled = warm_up(lambda: time.sleep(0.001), 0.1, 5.0, 0.5, 600.0)
    assert 0.1 <= time.perf_counter() - begin < 4.0
    assert ended_settled
    assert count >= 10


def test_warm_up_gives_up_at_its_limit() -> None:
    growing = iter(1.1**step for step in range(1000))
    begin = time.perf_counter()
    _, ended_settled = warm_up(lambda: paced(growing), 0.05, 0.3, 0.02, 600.0)
    assert not ended_settled
    assert 0.3 <= time.perf_counter() - begin < 1.5


def test_a_slow_model_warms_up_by_a_few_runs() -> None:
    """Two windows of five do not fit into its limit, and so would never have settled."""
    assert warm_up(lambda: time.sleep(0.04), 0.01, 0.05, 0.2, 600.0) == (4, True)
    heating = iter((40.0, 60.0, 80.0, 100.0))
    assert warm_up(lambda: paced(heating), 0.01, 0.05, 0.2, 600.0) == (4, False)
    assert warm_up(lambda: time.sleep(0.04), 0.01, 0.05, 0.2, 0.02)[0] <= 2


def test_burst_ends_at_its_count_or_its_time() -> None:
    assert len(burst(lambda: None, 17, 10.0)) == 17
    assert 1 <= len(burst(lambda: time.sleep(0.02), 1000, 0.1)) <= 6
    assert len(burst(lambda: None, 5, 0.0)) == 1
