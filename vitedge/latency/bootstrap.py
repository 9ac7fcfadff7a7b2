# SPDX-License-Identifier: Apache-2.0
"""The bootstrap interval of what the rounds of a measurement have in common.

The estimate is that of Hodges and Lehmann (1963), the median of the means of all pairs: nearly as sharp as the mean,
and a disturbed round does not move it. Rounds are the blocks that are resampled (Künsch 1989). Plain percentiles of few
blocks are too near each other: the interval takes those where a normal distribution has Student's quantiles, which is
the expanded percentile interval (Hesterberg 2015, "What Teachers Should Know About the Bootstrap") without its factor
for the narrowness of means. With fewer than `ENOUGH_ROUNDS` rounds, where percentiles end at the extreme rounds, it is
Student's quantile times the bootstrap's standard error. ``benchmarks/latency_statistics.py`` has coverage and width.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import numpy.typing as npt

RESAMPLES = 1000
ENOUGH_ROUNDS = 8
"""Rounds from which on percentiles of the bootstrap are the interval: those of fewer end at the extreme rounds."""
MOST_BLOCKS = 32
"""Blocks that are resampled at most; of more rounds, neighbours are one block."""
_NORMAL = NormalDist()
_COVERED = 0.95


def student_quantile(freedom: int) -> float:
    """Returns the 97.5 % quantile of Student's distribution, within 0.001 from 4 degrees of freedom on.

    Cornish-Fisher expansion, Abramowitz and Stegun 26.7.5.
    """
    z = _NORMAL.inv_cdf((1 + _COVERED) / 2)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return float(z + sum(term / freedom**power for power, term in enumerate(terms, 1)))


def interval(logs: npt.NDArray[np.float64], generator: np.random.Generator) -> tuple[float, float, float]:
    """Returns lower bound, estimate and upper bound of what rounds have in common.

    Args:
        logs: a value a round, in order; a single one has no spread, and bounds that are equal to it.
        generator: of the resampling.
    """
    together = -(-logs.size // MOST_BLOCKS)
    blocks = np.array([part.mean() for part in np.array_split(logs, logs.size // together)])
    count = blocks.size
    middle = float(_centers(blocks, np.ones((count, 1), dtype=np.int16))[0])
    if count < 2:
        return middle, middle, middle
    counts = generator.multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    resampled = _centers(blocks, np.ascontiguousarray(counts.T, dtype=np.int16))
    quantile = student_quantile(count - 1)
    if count < ENOUGH_ROUNDS:
        half = quantile * float(resampled.std(ddof=1))
        return middle - half, middle, middle + half
    tail = 100 * _NORMAL.cdf(-quantile)
    low, high = (float(bound) for bound in np.percentile(resampled, (tail, 100 - tail)))
    return low, middle, high


def _centers(values: npt.NDArray[np.float64], counts: npt.NDArray[np.int16]) -> npt.NDArray[np.float64]:
    """Returns the Hodges-Lehmann estimate of each resample; ``counts[i, j]`` is how often value i is in resample j."""
    first, second = np.triu_indices(values.size)
    means = (values[first] + values[second]) / 2
    order = np.argsort(means)
    first, second, means = first[order], second[order], means[order]
    # As often as a pair is in a resample: a value with itself too, once for each two of its copies and for each copy.
    times = counts[first] * (counts[second] + (first == second)[:, None])
    times[first == second] //= 2
    reached = np.cumsum(times, axis=0, dtype=np.int16)  # no more than the pairs of `MOST_BLOCKS`
    pairs = means.size
    low, high = ((reached <= place).sum(axis=0) for place in ((pairs - 1) // 2, pairs // 2))
    center: npt.NDArray[np.float64] = (means[low] + means[high]) / 2
    return center
