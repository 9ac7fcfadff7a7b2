# SPDX-License-Identifier: Apache-2.0
"""Samples of one callable in this process: warm up until the spread settles, then time runs back to back.

Warm-up lasts its time and until the spread settles; then at least 200 samples or 10 s. Nothing is trimmed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vitedge.latency.statistics import DRIFT_LIMIT, quantiles


@dataclass(frozen=True)
class Rule:
    """How long to warm up and to measure. The defaults are those of a result to be published."""

    warmup_s: float = 1.0
    warmup_limit_s: float = 10.0
    """The spread has to settle by then; if it does not the result is marked unstable."""
    settle: float = 0.02
    """The spread has settled when CoV and median of two neighbouring windows differ by at most this much."""
    samples: int = 200
    seconds: float = 10.0
    """A model is measured until it has that many samples or this much time has been spent in it."""
    rounds: int = 20
    """Turns that each model gets; what the bootstrap resamples."""
    patience_s: float = 600.0
    """How long a model may stay silent, loading or running, before it is given up."""

    def __post_init__(self) -> None:
        if self.samples < 1 or self.rounds < 1 or self.seconds <= 0 or self.warmup_s < 0:
            raise ValueError("A measurement needs at least one sample, one round and a time above zero.")


@dataclass(frozen=True)
class Samples:
    """What one measurement saw, in milliseconds."""

    raw_ms: tuple[float, ...]
    warmup: int
    """Runs before the first sample."""
    settled: bool

    @property
    def stable(self) -> bool:
        """Whether the spread settled during warm-up and the samples do not drift."""
        return self.settled and abs(quantiles(self.raw_ms).drift) <= DRIFT_LIMIT


def measure(runner: Callable[[], Any], rule: Rule | None = None) -> Samples:
    """Warms up and measures one callable in this process, back to back.

    Args:
        runner: one inference, finished when it returns.
        rule: how long; None is the rule of a result to be published.
    """
    rule = rule or Rule()
    warmup, settled = warm_up(runner, rule)
    return Samples(burst(runner, rule.samples, rule.seconds), warmup, settled)


def warm_up(runner: Callable[[], Any], rule: Rule) -> tuple[int, bool]:
    """Runs for the time of the rule and until the spread settles; tells how many runs and whether it did settle."""
    seen: list[float] = []
    begin = time.perf_counter()
    while True:
        seen.append(_once(runner))
        spent = time.perf_counter() - begin
        if spent >= rule.warmup_s and settled(seen, rule.settle):
            return len(seen), True
        if spent >= max(rule.warmup_s, rule.warmup_limit_s):
            return len(seen), False


def settled(samples: Sequence[float], tolerance: float) -> bool:
    """Whether the last window of samples has the spread and the median of the window before it."""
    width = min(20, len(samples) // 2)
    if width < 5:
        return False
    last, before = np.asarray(samples[-width:]), np.asarray(samples[-2 * width : -width])
    spread = abs(last.std(ddof=1) / last.mean() - before.std(ddof=1) / before.mean())
    shift = abs(np.median(last) / np.median(before) - 1)
    return bool(spread <= tolerance and shift <= tolerance)


def burst(runner: Callable[[], Any], samples: int, seconds: float) -> tuple[float, ...]:
    """Times runs back to back until there are so many or so much time has passed; at least one. In milliseconds."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while not times or (len(times) < samples and time.perf_counter() < end):
        times.append(_once(runner))
    return tuple(times)


def _once(runner: Callable[[], Any]) -> float:
    begin = time.perf_counter_ns()
    runner()
    return (time.perf_counter_ns() - begin) / 1e6
