# SPDX-License-Identifier: Apache-2.0
"""Statistics of latency samples: quantiles, drift, and the ratio of two models with its bootstrap interval.

Tail quantiles are reported only with enough samples. Two models are compared by the ratio of their medians with a
bootstrap interval over paired rounds, because a disturbance of the machine slows neighbouring samples together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vitedge.records import LatencyRatio, Quantiles

DRIFT_LIMIT = 0.03
"""Largest relative drift of a stable measurement; above it the machine was heating up or throttling."""
P95_SAMPLES = 40
P99_SAMPLES = 100
"""Smallest numbers of samples: fewer leave one sample or none beyond the quantile."""
RESAMPLES = 2000
NEGLIGIBLE = 0.01
"""Relative difference below which two are called equal: two processes of one artifact differ by a few thousandths."""


def quantiles(samples_ms: Sequence[float]) -> Quantiles:
    """Returns order statistics, spread and drift of samples in the order in which they were taken.

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
    return Quantiles(
        minimum=float(values.min()),
        median=float(np.median(values)),
        mean=float(values.mean()),
        p90=p90,
        p95=p95 if count >= P95_SAMPLES else None,
        p99=p99 if count >= P99_SAMPLES else None,
        cov=float(values.std(ddof=1) / values.mean()) if count > 1 else 0.0,
        drift=float(np.median(values[-third:]) / np.median(values[:third]) - 1),
    )


def ratio(
    model: tuple[str, Sequence[Sequence[float]]], baseline: tuple[str, Sequence[Sequence[float]]], seed: int = 0
) -> LatencyRatio:
    """Returns the ratio of two models' medians with its 95 % paired block bootstrap interval.

    Rounds are resampled with replacement, the same for both, so that a slow round counts in both medians
    (Künsch 1989; percentile interval, Efron and Tibshirani 1993).

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
    draws = np.random.default_rng(seed).integers(0, len(mine), size=(RESAMPLES, len(mine)))
    resampled = _medians(mine, draws) / _medians(theirs, draws)
    low, high = (float(bound) for bound in np.percentile(resampled, (2.5, 97.5)))
    everything = np.arange(len(mine))[None]
    middle = float((_medians(mine, everything) / _medians(theirs, everything))[0])
    return LatencyRatio(label, other, middle, low, high, _compared(middle, low, high))


def _compared(middle: float, low: float, high: float) -> str:
    if low <= 1 <= high or abs(middle - 1) < NEGLIGIBLE:
        return "no difference"
    return "faster" if middle < 1 else "slower"


def _medians(rounds: Sequence[Sequence[float]], draws: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Returns the median of all samples of the rounds in each row of ``draws``. Rounds may differ in length."""
    lengths = np.array([len(samples) for samples in rounds])
    padded = np.full((len(rounds), lengths.max()), np.inf)
    for row, samples in zip(padded, rounds, strict=True):
        row[: len(samples)] = samples
    pools = np.sort(padded[draws].reshape(len(draws), -1), axis=1)
    counts, rows = lengths[draws].sum(axis=1), np.arange(len(draws))
    middle: np.ndarray[Any, Any] = (pools[rows, (counts - 1) // 2] + pools[rows, counts // 2]) / 2
    return middle
