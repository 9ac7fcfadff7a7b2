# SPDX-License-Identifier: Apache-2.0
"""Tests of `search` and of `sensitivity` and `costs`, between which it chooses."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from vitedge.quantization.mixed_precision.costs import Costs
from vitedge.quantization.mixed_precision.search import (
    MIXED_DB,
    Budget,
    Quality,
    Search,
    budget_of,
    find_candidates,
    rank,
)
from vitedge.quantization.mixed_precision.sensitivity import Candidate
from vitedge.recipe import QuantizationRecipe

GAINS = {"a": 4e-3, "b": 3e-3, "c": 2e-3, "d": 5e-4, "e": 4e-4}
COSTS = {"a": 40.0, "b": 2.0, "c": 10.0, "d": 1.0, "e": 100.0}
EXACT = 1e-6
"""The noise that is left when every part is in float."""


def floats(parts: str) -> tuple[Candidate, ...]:
    return tuple(Candidate(part, "float") for part in parts)


def gains() -> dict[Candidate, float]:
    return {Candidate(part, "float"): gain for part, gain in GAINS.items()}


def costs() -> Costs:
    return Costs(1000.0, {(part, "float"): cost for part, cost in COSTS.items()})


def measure(chosen: Sequence[Candidate]) -> Quality:
    """Noises add up; every thousandth of noise costs a point of top-1."""
    noise = EXACT + sum(GAINS.values()) - sum(GAINS[one.part] for one in chosen)
    return Quality(-10 * math.log10(noise), 0.9 - noise * 10, noise * 1000)


def search(budget: Budget, measured: Costs | None = None) -> Search:
    return Search(budget, rank(gains(), measured), gains(), measured, measure)


def test_precision_is_raised_first_where_it_gains_most_per_microsecond() -> None:
    assert rank(gains(), costs()) == floats("bdcae")
    assert rank(gains(), None) == floats("abcde")


def test_what_gains_nothing_comes_last_however_quick_it_is() -> None:
    found = {Candidate("worse", "float"): -1e-3, Candidate("better", "float"): 1e-6}
    quick = Costs(10.0, {("worse", "float"): -5.0, ("better", "float"): 500.0})
    assert [one.part for one in rank(found, quick)] == ["better", "worse"]


@pytest.mark.parametrize("decibels", [21.0, 23.0, 25.0, 28.0, 33.0, 40.0])
def test_the_shortest_prefix_that_meets_the_budget_is_found(decibels: float) -> None:
    ranking = rank(gains(), costs())
    shortest = next(n for n in range(len(ranking) + 1) if measure(ranking[:n]).sqnr_db >= decibels)
    budget = Budget(decibels, None)
    result = search(budget, costs()).run(measure(()))
    assert (result.chosen, result.shortfall) == (ranking[:shortest], "")


def test_top1_is_a_budget_of_its_own() -> None:
    result = search(Budget(None, 3.0), costs()).run(measure(()))
    assert result.chosen == floats("bdca")
    assert measure(result.chosen).drop == pytest.approx(0.401)
    # Three would not do.
    assert measure(floats("bdc")).drop == pytest.approx(4.401)


def test_the_frontier_tells_what_more_precision_gives_and_costs() -> None:
    result = search(Budget(33.0, None), costs()).run(measure(()))
    assert result.frontier[0].given_back == ()
    assert result.frontier[0].microseconds == 1000.0
    for before, after in zip(result.frontier, result.frontier[1:], strict=False):
        assert len(before.given_back) < len(after.given_back)
        assert before.sqnr_db < after.sqnr_db
    chosen = next(point for point in result.frontier if len(point.given_back) == len(result.chosen))
    assert chosen.microseconds == 1000.0 + sum(COSTS[one.part] for one in result.chosen)
    assert chosen.top1 == pytest.approx(measure(result.chosen).top1)


def test_the_best_is_kept_where_nothing_is_good_enough() -> None:
    result = search(Budget(90.0, 0.0)).run(measure(()))
    assert result.chosen == floats("abcde")
    assert result.shortfall == "60.0 dB where 90 dB were asked for and 0.00 points of top-1 lost where 0 may be"


def test_a_budget_without_candidates_is_exceeded() -> None:
    start = measure(())
    result = Search(Budget(90.0, None), (), {}, None, measure).run(start)
    assert (result.chosen, [point.sqnr_db for point in result.frontier]) == ((), [start.sqnr_db])
    assert result.shortfall


def test_four_bits_become_eight_before_they_become_float() -> None:
    schemes = {"a": "w4", "b": "int8", "c": "float", "d": "w4a8"}
    found = [(one.part, one.scheme) for one in find_candidates(schemes, frozenset("b"))]
    assert found == [("a", "w8"), ("a", "float"), ("d", "int8"), ("d", "float")]
    eight, whole = find_candidates({"a": "w4"}, frozenset())
    ranking = rank({eight: 9e-3, whole: 9.5e-3}, None)
    assert ranking == (eight, whole)

    def left(chosen: Sequence[Candidate]) -> Quality:
        return Quality({(): 20.0, (eight,): 30.0, (whole,): 60.0}[tuple(chosen)])

    gained = {eight: 9e-3, whole: 9.5e-3}
    assert Search(Budget(30.0, None), ranking, gained, None, left).run(left(())).chosen == (eight,)
    assert Search(Budget(31.0, None), ranking, gained, None, left).run(left(())).chosen == (whole,)


@pytest.mark.parametrize(
    ("recipe", "budget"),
    [
        (QuantizationRecipe(), None),
        (QuantizationRecipe("mixed"), Budget(MIXED_DB, None)),
        (QuantizationRecipe("mixed", min_sqnr=12.0), Budget(12.0, None)),
        (QuantizationRecipe("mixed", max_drop=1.0, eval_images="folder"), Budget(None, 1.0)),
        (QuantizationRecipe("w4", min_sqnr=25.0), Budget(25.0, None)),
    ],
)
def test_mixed_has_a_budget_of_its_own(recipe: QuantizationRecipe, budget: Budget | None) -> None:
    assert budget_of(recipe) == budget
