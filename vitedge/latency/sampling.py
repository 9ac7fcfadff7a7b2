# SPDX-License-Identifier: Apache-2.0
"""Samples the latency of one callable in this process: warms up until the spread settles, then times its runs.

Warm-up lasts its time and until the spread settles; then at least 200 samples or 10 s. Nothing is trimmed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vitedge.errors import BadRecipe
from vitedge.latency.conclusion import DRIFT_LIMIT
from vitedge.latency.statistics import quantiles
from vitedge.recipe import check_finite, check_whole

FEWEST_WARM_UPS = 4
"""Runs of the warm-up of a slow model: fewer cannot be compared by twos."""
_WINDOW = 20
"""Runs in a window of the warm-up, or half of all if those are fewer."""
_SPREAD = 5
"""Runs that have a spread to speak of."""


@dataclass(frozen=True)
class Rule:
    """Durations of warm-up and measurement. The defaults are those of a result to be published."""

    warmup_s: float = 1.0
    """Seconds that a warm-up lasts at least."""
    warmup_limit_s: float = 10.0
    """Seconds in which the spread has to settle; if it does not the result is marked unstable. A model that makes fewer
    than `FEWEST_WARM_UPS` runs in them gets these, within half of its patience."""
    settle: float = 0.02
    """Largest difference of CoV and of relative median between neighbouring windows of a spread that has settled."""
    samples: int = 200
    """Samples after which a model is done."""
    seconds: float = 10.0
    """Seconds of running after which a model is done with fewer samples."""
    rounds: int = 20
    """Turns that each model gets; the bootstrap resamples them."""
    patience_s: float = 600.0
    """Seconds that a model may stay silent, loading or running, before its process is ended."""

    def __post_init__(self) -> None:
        check_whole("samples", self.samples, 1)
        check_whole("rounds", self.rounds, 1)
        for name in ("warmup_s", "warmup_limit_s", "settle", "seconds", "patience_s"):
            check_finite(name, getattr(self, name), 0)
        if self.seconds == 0 or self.patience_s == 0:
            raise BadRecipe("A measurement takes time: seconds and patience_s are above zero.")


@dataclass(frozen=True)
class Samples:
    """The samples of one measurement."""

    raw_ms: tuple[float, ...]
    """Times of single runs in milliseconds, in order."""
    warmup: int
    """Runs before the first sample."""
    settled: bool
    """Whether the spread settled during warm-up."""

    @property
    def stable(self) -> bool:
        """Whether the spread settled during warm-up and the samples do not drift."""
        return self.settled and abs(quantiles(self.raw_ms).drift) <= DRIFT_LIMIT


def measure(runner: Callable[[], Any], rule: Rule | None = None) -> Samples:
    """Warms up and measures one callable in this process, back to back.

    Args:
        runner: one inference, finished when it returns.
        rule: durations; None is the rule of a result to be published.
    """
    rule = rule or Rule()
    warmup, settled = warm_up(runner, rule)
    return Samples(burst(runner, rule.samples, rule.seconds), warmup, settled)


def warm_up(runner: Callable[[], Any], rule: Rule) -> tuple[int, bool]:
    """Runs for the time of the rule and until the spread settles; returns the number of runs and whether it settled.

    A slow model, of which the limit of the rule leaves a few runs only, has settled if their medians have.
    """
    seen: list[float] = []
    begin = time.perf_counter()
    while True:
        seen.append(_once(runner))
        elapsed = time.perf_counter() - begin
        if elapsed >= rule.warmup_s and settled(seen, rule.settle):
            return len(seen), True
        enough = len(seen) >= FEWEST_WARM_UPS or elapsed >= rule.patience_s / 2
        if enough and elapsed >= max(rule.warmup_s, rule.warmup_limit_s):
            return len(seen), settled(seen, rule.settle, fewest=FEWEST_WARM_UPS // 2)


def settled(samples: Sequence[float], tolerance: float, fewest: int = _SPREAD) -> bool:
    """Returns whether the last window of samples has the spread and the median of the window before it.

    Args:
        samples: in the order in which they were taken.
        tolerance: largest difference of CoV and of relative median.
        fewest: samples of the smallest window; of one that is too small to have a spread, the median decides.
    """
    width = min(_WINDOW, len(samples) // 2)
    if width < fewest:
        return False
    last, before = np.asarray(samples[-width:]), np.asarray(samples[-2 * width : -width])
    spread = abs(last.std(ddof=1) / last.mean() - before.std(ddof=1) / before.mean()) if width >= _SPREAD else 0.0
    shift = abs(np.median(last) / np.median(before) - 1)
    return bool(spread <= tolerance and shift <= tolerance)


def burst(runner: Callable[[], Any], samples: int, seconds: float) -> tuple[float, ...]:
    """Returns the milliseconds of runs back to back: up to ``samples``, within ``seconds``, at least one."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while not times or (len(times) < samples and time.perf_counter() < end):
        times.append(_once(runner))
    return tuple(times)


def _once(runner: Callable[[], Any]) -> float:
    """Returns the milliseconds of one run."""
    begin = time.perf_counter_ns()
    runner()
    return (time.perf_counter_ns() - begin) / 1e6
