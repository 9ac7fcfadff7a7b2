# SPDX-License-Identifier: Apache-2.0
"""Statistics of latency samples: quantiles, drift, and the ratio of two models with its bootstrap interval.

Tail quantiles are reported only with enough samples. Two models are compared round by round, because a disturbance of
the machine slows neighbouring samples together, and the rounds are what the bootstrap resamples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from vitedge.latency.bootstrap import interval
from vitedge.latency.conclusion import Measured, compared, obstacle
from vitedge.latency.distribution import Values, count_outliers, modes, resolution
from vitedge.records import LatencyRatio, Quantiles

P95_SAMPLES = 40
P99_SAMPLES = 100
"""Smallest numbers of samples: fewer leave one sample or none beyond the quantile."""
COV_LIMIT = 0.025
"""Coefficient of variation from which on trtexec warns of a measurement."""
VISIBLE_STEP = 0.01
"""Step of the clock relative to the median from which on it is told."""
_CROWDED = 0.9
"""Share of the samples in the two commonest values from which on the clock's step hides the spread."""
_LEAST_MS = 1e-9


def quantiles(samples_ms: Sequence[float]) -> Quantiles:
    """Returns order statistics, spread, drift and shape of samples in the order in which they were taken.

    Quantiles interpolate linearly between order statistics (Hyndman and Fan 1996, type 7).

    Args:
        samples_ms: milliseconds, at least one.

    Raises:
        ValueError: there are no samples.
    """
    if not samples_ms:
        raise ValueError("There are no latency samples to summarize.")
    values = np.asarray(samples_ms, dtype=np.float64)
    count = values.size
    third = max(1, count // 3)
    p90, p95, p99 = (float(value) for value in np.percentile(values, (90, 95, 99)))
    step = resolution(samples_ms)
    found = modes(samples_ms, step)
    return Quantiles(
        minimum=float(values.min()),
        median=float(np.median(values)),
        mean=float(values.mean()),
        p90=p90,
        p95=p95 if count >= P95_SAMPLES else None,
        p99=p99 if count >= P99_SAMPLES else None,
        cov=float(values.std(ddof=1) / values.mean()) if count > 1 else 0.0,
        drift=float(np.median(values[-third:]) / np.median(values[:third]) - 1),
        std=float(values.std(ddof=1)) if count > 1 else None,
        maximum=float(values.max()),
        outliers=count_outliers(samples_ms, found, step),
        modes=found,
        resolution_ms=step,
    )


def typical(rounds: Sequence[Sequence[float]], seed: int = 0) -> tuple[float, float, float]:
    """Returns lower bound, estimate and upper bound of the median of a round, with a 95 % block bootstrap interval.

    It tells how well the time of this run is known; two models are compared by `ratio`, which is free of what
    slowed both.

    Args:
        rounds: samples in milliseconds, one sequence a round.
        seed: of the resampling.

    Raises:
        ValueError: there are no samples.
    """
    pool = [sample for samples in rounds for sample in samples]
    if not pool:
        raise ValueError("There are no latency samples to summarize.")
    generator = np.random.default_rng(seed)
    step = resolution(pool)
    error = _coarse(pool, step)
    low, middle, high = interval(_log_medians(rounds, step, generator), generator)
    return math.exp(low - error), math.exp(middle), math.exp(high + error)


def ratio(
    model: tuple[str, Sequence[Sequence[float]]], baseline: tuple[str, Sequence[Sequence[float]]], seed: int = 0
) -> LatencyRatio:
    """Returns the typical ratio of two models' medians within a round, with its 95 % block bootstrap interval.

    Whole rounds are resampled, the same for both, so what slows a round of both drops out; `vitedge.latency.bootstrap`
    has the method. Samples that the clock's step made equal are spread over it, as a median of grouped data does; where
    the step is wider than their spread, the interval has half a step added.

    Args:
        model: label and samples in milliseconds, one sequence a round.
        baseline: the same, measured in turn with the model: round i of both are neighbours in time.
        seed: of the resampling.

    Raises:
        ValueError: the two were not measured in the same number of rounds.
    """
    (label, mine), (other, theirs) = model, baseline
    if len(mine) != len(theirs) or not mine:
        raise ValueError(f"{label} has {len(mine)} rounds and {other} {len(theirs)}; a ratio needs them in pairs.")
    generator = np.random.default_rng(seed)
    whole, whole_baseline = ([sample for samples in rounds for sample in samples] for rounds in (mine, theirs))
    step = resolution([*whole, *whole_baseline])
    first, second = (
        Measured(name, np.asarray(pool), quantiles(pool), _log_medians(rounds, step, generator), _coarse(pool, step))
        for name, pool, rounds in ((label, whole, mine), (other, whole_baseline, theirs))
    )
    low, middle, high = interval(first.levels - second.levels, generator)
    error = first.coarse + second.coarse
    low, middle, high = math.exp(low - error), math.exp(middle), math.exp(high + error)
    reason = obstacle(first, second, middle)
    return LatencyRatio(
        label, other, middle, low, high, "no conclusion" if reason else compared(middle, low, high), reason
    )


def _log_medians(rounds: Sequence[Sequence[float]], step: float, generator: np.random.Generator) -> Values:
    """Returns the logarithm of each round's median, the samples spread evenly over the step of the clock."""
    medians = [np.median(np.asarray(samples) + step * (generator.random(len(samples)) - 0.5)) for samples in rounds]
    logs: Values = np.log(np.maximum(medians, max(step / 4, _LEAST_MS)))
    return logs


def _coarse(samples: Sequence[float], step: float) -> float:
    """Returns half the step of the clock relative to the median where it hides the spread, else zero."""
    if not step:
        return 0.0
    _, counts = np.unique(np.round(np.asarray(samples) / step), return_counts=True)
    if np.sort(counts)[-2:].sum() < _CROWDED * len(samples):
        return 0.0
    return step / 2 / max(float(np.median(samples)), step)
