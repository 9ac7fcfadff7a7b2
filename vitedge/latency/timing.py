# SPDX-License-Identifier: Apache-2.0
"""Times one callable in this process: warms it up until the spread settles, then takes samples.

A part of the runner, which has NumPy alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

FEWEST_WARM_UPS = 4
"""Runs of the warm-up of a slow model: fewer cannot be compared by twos."""
_WINDOW = 20
"""Runs in a window of the warm-up, or half of all if those are fewer."""
_SPREAD = 5
"""Runs that have a spread to speak of."""


def warm_up(
    runner: Callable[[], Any], least_s: float, most_s: float, tolerance: float, patience_s: float
) -> tuple[int, bool]:
    """Runs for a time and until the spread settles; returns the number of runs and whether it settled.

    A slow model, of which the time leaves a few runs only, has settled if their medians have.

    Args:
        runner: one inference, finished when it returns.
        least_s: seconds that the warm-up lasts at least.
        most_s: seconds in which the spread has to settle.
        tolerance: of `settled`.
        patience_s: seconds, in half of which a slow model has `FEWEST_WARM_UPS` runs, or fewer.
    """
    seen: list[float] = []
    begin = time.perf_counter()
    while True:
        seen.append(_once(runner))
        elapsed = time.perf_counter() - begin
        if elapsed >= least_s and settled(seen, tolerance):
            return len(seen), True
        enough = len(seen) >= FEWEST_WARM_UPS or elapsed >= patience_s / 2
        if enough and elapsed >= max(least_s, most_s):
            return len(seen), settled(seen, tolerance, fewest=FEWEST_WARM_UPS // 2)


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
