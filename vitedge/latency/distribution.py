# SPDX-License-Identifier: Apache-2.0
"""The shape of latency samples: two modes, outliers, and the step of the clock that took them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vitedge.records import Mode

Values = npt.NDArray[np.float64]

MODES_SAMPLES = 60
"""Smallest number of samples in which two modes are looked for: in fewer, chance makes a gap too often."""
OUTLIERS_SAMPLES = 20
"""Smallest number of samples whose quartiles tell an outlier."""
FENCE = 3.0
"""Interquartile ranges beyond the quartiles from which on a sample is an outlier (Tukey 1977, "far out")."""
LEAST_SHARE = 0.1
"""Smallest share of a mode; fewer samples are a tail."""
LEAST_GAP = 0.05
"""Smallest relative distance of two modes: nearer ones do not matter to a user."""
SEPARATION = 3.5
"""Smallest distance of two modes over their spread; the halves of a uniform distribution have 2.8."""
VALLEY = 0.5
"""Largest density between two modes, relative to that of the lower one."""
TIED = 0.5
"""Largest number of distinct values, relative to all, of samples that show the step of their clock."""
_OFF_TICK = 0.05
"""Largest distance of a time from a multiple of the clock's step, in steps: what rounding makes."""
_IQR_OF_NORMAL = 1.349
"""Interquartile range of a normal distribution over its standard deviation."""
_DIGITS = 7
"""Decimals of a millisecond at which two samples are equal: a tenth of a nanosecond."""


def resolution(samples_ms: Sequence[float]) -> float:
    """Returns the step of the clock in milliseconds: the smallest difference of samples of which many are equal.

    Zero where most samples differ, so that the step shows in no figure, where all are equal, and where they are no
    multiples of it.
    """
    values = np.unique(np.round(np.asarray(samples_ms, dtype=np.float64), _DIGITS))
    if values.size < 2 or values.size > TIED * len(samples_ms):
        return 0.0
    step = float(np.diff(values).min())
    ticks = values / step
    multiples = np.abs(ticks - np.round(ticks)) < _OFF_TICK
    return step if multiples.all() and ticks[values > 0].min() > 1 - _OFF_TICK else 0.0


def modes(samples_ms: Sequence[float], step_ms: float = 0.0) -> tuple[Mode, ...]:
    """Returns the faster and the slower of two modes, or nothing where the samples show one.

    The logarithms are split where the variance between the parts is largest (Otsu 1979). The parts are modes if their
    distance is `SEPARATION` times their spread (Ashman, Bird and Zepf 1994, with quartiles in place of moments) and
    the density between them has a valley that is deeper than counting would make by chance.

    Args:
        samples_ms: milliseconds in any order.
        step_ms: of the clock; two of its ticks are no two modes.
    """
    if len(samples_ms) < MODES_SAMPLES or min(samples_ms) <= 0:
        return ()
    core = _without_outliers(np.sort(np.log(np.asarray(samples_ms, dtype=np.float64))))
    cut = _split(core)
    faster, slower = core[:cut], core[cut:]
    low, high = float(np.median(faster)), float(np.median(slower))
    step = step_ms / np.exp(low)
    spread = float(np.hypot(_spread(faster), _spread(slower)) / np.sqrt(2))
    if high - low < max(LEAST_GAP, 4 * step, SEPARATION * spread) or not _has_valley(core, low, high):
        return ()
    share = cut / core.size
    return Mode(float(np.exp(low)), share), Mode(float(np.exp(high)), 1 - share)


def count_outliers(samples_ms: Sequence[float], found: tuple[Mode, ...] = (), step_ms: float = 0.0) -> int:
    """Returns the number of samples beyond the fences of their distribution; zero of fewer than `OUTLIERS_SAMPLES`.

    Args:
        samples_ms: milliseconds in any order.
        found: modes of the samples; each has fences of its own.
        step_ms: of the clock; a spread below it is not seen.
    """
    values = np.sort(np.asarray(samples_ms, dtype=np.float64))
    if values.size < OUTLIERS_SAMPLES:
        return 0
    if not found:
        return values.size - _inside(values, step_ms).size
    middle = np.sqrt(found[0].center_ms * found[1].center_ms)
    faster, slower = values[values < middle], values[values >= middle]
    beyond = [part.size - _inside(part, step_ms).size for part in (faster, slower)]
    return sum(beyond)


def _inside(values: Values, least: float = 0.0) -> Values:
    """Returns the values within the fences; ``least`` is the smallest interquartile range."""
    first, third = np.percentile(values, (25, 75))
    reach = FENCE * max(third - first, least)
    inside: Values = values[(values >= first - reach) & (values <= third + reach)]
    return inside


def _without_outliers(values: Values) -> Values:
    """Returns the values within the fences, or all where those beyond are as many as a mode."""
    core = _inside(values)
    return core if core.size > (1 - LEAST_SHARE) * values.size else values


def _split(values: Values) -> int:
    """Returns the size of the lower of two parts of sorted values whose variance between them is largest."""
    sizes = np.arange(1, values.size)
    sums = np.cumsum(values - values.mean())[:-1]
    between = sums**2 / (sizes * (values.size - sizes))
    least = int(np.ceil(LEAST_SHARE * values.size))
    return int(between[least - 1 : values.size - least].argmax()) + least


def _spread(values: Values) -> float:
    """Returns the standard deviation that a normal distribution of the same quartiles has."""
    first, third = np.percentile(values, (25, 75))
    return float(third - first) / _IQR_OF_NORMAL


def _has_valley(values: Values, low: float, high: float) -> bool:
    """Returns whether the density between two places falls well below that at both, by counts in five bins."""
    width = (high - low) / 4
    counts, _ = np.histogram(values, low - width / 2 + width * np.arange(6))
    valley = counts[1:4].min()
    return bool(valley + np.sqrt(valley + 1) <= VALLEY * min(counts[0], counts[4]))
