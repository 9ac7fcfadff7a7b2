# SPDX-License-Identifier: Apache-2.0
"""Decides what the samples of two models, measured in turn, allow to be said of which is faster."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vitedge.latency.bootstrap import student_quantile
from vitedge.records import Quantiles

DRIFT_LIMIT = 0.03
"""Largest relative drift of a stable measurement; above it the machine was heating up or throttling."""
NEGLIGIBLE = 0.01
"""Relative difference below which two are called equal: two processes of one artifact differ by a few thousandths."""
FEWEST = 5
"""Smallest number of rounds of a conclusion: four have one direction by chance in one case of eight."""
SHARES = 0.1
"""Difference in the share of a mode up to which two models ran in the same states."""
_SHARE_ERRORS = 3.0
"""Standard errors of a difference in shares, if the samples are independent, up to which it is chance."""
_QUANTILES = 1.5
"""Student's quantiles by which a trend exceeds chance: three standard errors of many rounds."""


@dataclass(frozen=True)
class Measured:
    """One model of a comparison."""

    label: str
    samples: npt.NDArray[np.float64]
    """Milliseconds, of all rounds."""
    quantiles: Quantiles
    levels: npt.NDArray[np.float64]
    """Logarithm of the median of each round, in order."""
    coarse: float = 0.0
    """Largest relative error of the median by the step of the clock, where this is wider than the spread; else zero."""


def compared(middle: float, low: float, high: float) -> str:
    """Returns ``faster``, ``slower`` or ``no difference``, from a ratio and its interval."""
    if low <= 1 <= high or abs(middle - 1) < NEGLIGIBLE:
        return "no difference"
    return "faster" if middle < 1 else "slower"


def obstacle(model: Measured, baseline: Measured, middle: float) -> str:
    """Returns the reason why nothing is concluded from a comparison, a phrase; empty where nothing forbids it.

    A disturbance forbids it only if it could have made or hidden the difference: a model that takes half the time is
    faster, though both drift. What slows a round of both is not in their ratio.

    Args:
        model: that is compared.
        baseline: that it is compared with.
        middle: the ratio.
    """
    rounds = len(model.levels)
    if rounds < FEWEST:
        return f"{rounds} of the {FEWEST} rounds that a conclusion needs"
    return _drift(model, baseline, middle) or _modes(model, baseline, middle) or _clock(model, baseline, middle)


def _drift(model: Measured, baseline: Measured, middle: float) -> str:
    first, last = trend(model.levels - baseline.levels)
    if abs(last - first) > math.log1p(DRIFT_LIMIT) and _side(first) != _side(last):
        return (
            f"{model.label} took {math.exp(first):.2f} x the time of {baseline.label} at first, {math.exp(last):.2f} x "
            "at last"
        )
    # Within a round, one model runs up to a round's duration after the other.
    rounds = len(model.levels) - _third(model.levels)
    step = max(((last - first) / rounds for first, last in map(trend, (model.levels, baseline.levels))), key=abs)
    if abs(step) > NEGLIGIBLE and abs(math.log(middle)) < 2 * abs(step):
        return f"times changed by {math.expm1(step):+.1%} from round to round, and differ by no more"
    return ""


def trend(levels: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Returns the mean of the first third of the rounds and that of the last; twice the mean of all without a trend.

    The noise that a trend exceeds is that of the differences of neighbours (von Neumann 1941), which have hardly
    anything of the trend.
    """
    third = _third(levels)
    first, last = float(levels[:third].mean()), float(levels[-third:].mean())
    noise = float(np.sqrt((np.diff(levels) ** 2).mean() / 2))
    if abs(last - first) <= _QUANTILES * student_quantile(len(levels) - 1) * noise * math.sqrt(2 / third):
        first = last = float(levels.mean())
    return first, last


def _third(levels: npt.NDArray[np.float64]) -> int:
    return max(1, len(levels) // 3)


def _side(log: float) -> int:
    """Returns -1 for faster, 1 for slower, 0 for no difference that matters."""
    return 0 if abs(log) < NEGLIGIBLE else int(math.copysign(1, log))


def _modes(model: Measured, baseline: Measured, middle: float) -> str:
    if not model.quantiles.modes and not baseline.quantiles.modes:
        return ""
    mine, theirs = _slow_share(model, baseline, 1 / middle), _slow_share(baseline, model, middle)
    both = (mine + theirs) / 2
    error = math.sqrt(both * (1 - both) * (1 / model.samples.size + 1 / baseline.samples.size))
    if abs(mine - theirs) <= max(SHARES, _SHARE_ERRORS * error):
        return ""
    fast, slow = _range(model.quantiles)
    other_fast, other_slow = _range(baseline.quantiles)
    if slow < other_fast * (1 - NEGLIGIBLE) or fast > other_slow * (1 + NEGLIGIBLE):
        return ""
    return f"{model.label} ran {mine:.0%} of the time in a slower mode, {baseline.label} {theirs:.0%}"


def _slow_share(model: Measured, other: Measured, scale: float) -> float:
    """Returns the share of the slower mode; of a model without modes, by those of the other times ``scale``."""
    if model.quantiles.modes:
        return model.quantiles.modes[1].share
    fast, slow = (mode.center_ms for mode in other.quantiles.modes)
    return float((model.samples * scale > math.sqrt(fast * slow)).mean())


def _range(found: Quantiles) -> tuple[float, float]:
    """Returns the milliseconds of the fastest and of the slowest mode."""
    return (found.modes[0].center_ms, found.modes[-1].center_ms) if found.modes else (found.median, found.median)


def _clock(model: Measured, baseline: Measured, middle: float) -> str:
    if np.ptp(np.concatenate((model.samples, baseline.samples))) == 0:
        return "all times are equal, so the clock is too coarse for them"
    error = model.coarse + baseline.coarse
    if error <= NEGLIGIBLE or abs(math.log(middle)) > error:
        return ""
    return f"the clock's step makes errors of up to {error:.1%}, more than the difference"
