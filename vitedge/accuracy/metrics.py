# SPDX-License-Identifier: Apache-2.0
"""Metrics of accuracy: ranks of the true classes, confidence intervals, and the test of a difference."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitedge.accuracy.records import Proportion
from vitedge.parity.metrics import finite

Z95 = 1.959963984540054
"""The 97.5 % quantile of the normal distribution."""


def ranks(scores: NDArray[Any], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns the rank of each image's true class among the scores, ``(images,)``; 0 is the highest score.

    Equal scores rank by class, so that rank 0 is what ``argmax`` chooses. Scores that are not finite put the true class
    behind all others.

    Args:
        scores: ``(images, classes)``.
        labels: ``(images,)``.
    """
    true = np.take_along_axis(scores, labels[:, None], axis=1)
    before = np.arange(scores.shape[1])[None] < labels[:, None]
    found: NDArray[np.int64] = ((scores > true) | ((scores == true) & before)).sum(axis=1)
    return np.where(finite(scores), found, scores.shape[1])


def proportion(count: int, total: int) -> Proportion:
    """Returns a share with its 95 % Wilson score interval.

    E. B. Wilson, Probable inference, the law of succession, and statistical inference, Journal of the American
    Statistical Association 22 (1927), 209-212. Unlike the normal approximation it neither leaves [0, 1] nor shrinks to
    nothing where all or none of the images count, which near 100 % is the rule here.

    Args:
        count: images that have the property.
        total: all images, at least one.
    """
    share, square = count / total, Z95**2 / total
    centre = (share + square / 2) / (1 + square)
    half = Z95 / (1 + square) * math.sqrt(share * (1 - share) / total + square / (4 * total))
    # The bounds are 0 and 1 exactly there; rounding would leave 1e-17.
    low = 0.0 if count == 0 else centre - half
    high = 1.0 if count == total else centre + half
    return Proportion(count, total, share, low, high)


def mcnemar(lost: int, gained: int) -> float:
    """Returns the two-sided p-value of the exact McNemar test.

    Where neither classifier is better, each image on which exactly one is right is as likely to be lost as gained: the
    smaller number is binomial with probability 1/2. Q. McNemar, Note on the sampling error of the difference between
    correlated proportions or percentages, Psychometrika 12 (1947), 153-157; the exact conditional form as in
    M. W. Fagerland, S. Lydersen, P. Laake, BMC Medical Research Methodology 13:91 (2013).

    Args:
        lost: images that only the baseline classifies correctly.
        gained: images that only the other one does.
    """
    both, fewer = lost + gained, min(lost, gained)
    term = total = 1
    for index in range(fewer):
        term = term * (both - index) // (index + 1)
        total += term
    return min(1.0, 2 * total / (1 << both))
