# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from vitedge.accuracy.metrics import mcnemar, proportion, ranks

NAN = float("nan")


@pytest.mark.parametrize(("count", "total"), [(0, 10), (1, 1), (3, 7), (533, 540), (540, 540), (41_000, 50_000)])
def test_the_interval_is_that_of_wilson(count: int, total: int) -> None:
    found = proportion(count, total)
    low, high = binomtest(count, total).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-12)
    assert (found.count, found.total, found.share) == (count, total, count / total)
    assert 0 <= found.low <= found.share <= found.high <= 1


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (1, 0), (9, 1), (1, 9), (5, 5), (30, 12), (700, 600)])
def test_the_test_is_the_exact_one(lost: int, gained: int) -> None:
    expected = binomtest(min(lost, gained), lost + gained).pvalue if lost + gained else 1.0
    assert mcnemar(lost, gained) == pytest.approx(expected, rel=1e-9)


def test_a_difference_that_leaves_no_doubt_is_not_an_overflow() -> None:
    assert mcnemar(30_000, 10_000) == 0.0
    assert mcnemar(9, 1) == 22 / 1024


def test_ranks_count_what_comes_before_and_ties_go_to_the_first_class() -> None:
    scores = np.array([[1.0, 3.0, 2.0], [2.0, 2.0, 2.0], [2.0, 2.0, 2.0], [5.0, NAN, 1.0], [1.0, 2.0, np.inf]])
    assert ranks(scores, np.array([2, 0, 2, 0, 2])).tolist() == [1, 0, 2, 3, 3]


def test_rank_zero_is_what_argmax_chooses() -> None:
    scores = np.random.default_rng(0).integers(0, 5, (500, 6)).astype(np.float32)
    labels = np.random.default_rng(1).integers(0, 6, 500)
    assert ((ranks(scores, labels) == 0) == (scores.argmax(axis=1) == labels)).all()
