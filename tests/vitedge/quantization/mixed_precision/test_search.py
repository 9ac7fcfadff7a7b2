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
    candidates,
    put_in_order,
)
from vitedge.quantization.mixed_precision.sensitivity import Exemption
from vitedge.recipe import QuantizationRecipe

GAINS = {"a": 4e-3, "b": 3e-3, "c": 2e-3, "d": 5e-4, "e": 4e-4}
COSTS = {"a": 40.0, "b": 2.0, "c": 10.0, "d": 1.0, "e": 100.0}
EXACT = 1e-6
"""What is left when everything is given back."""


def floats(parts: str) -> tuple[Exemption, ...]:
    return tuple(Exemption(part, "float") for part in parts)


def gains() -> dict[Exemption, float]:
    return {Exemption(part, "float"): gain for part, gain in GAINS.items()}


def costs() -> Costs:
    return Costs(1000.0, {(part, "float"): cost for part, cost in COSTS.items()})


def judge(given: Sequence[Exemption]) -> Quality:
    """Noises add up; every thousandth of noise costs a point of top-1."""
    noise = EXACT + sum(GAINS.values()) - sum(GAINS[one.part] for one in given)
    return Quality(-10 * math.log10(noise), 0.9 - noise * 10, noise * 1000)


def search(budget: Budget, measured: Costs | None = None) -> Search:
    return Search(budget, put_in_order(gains(), measured), gains(), measured, judge)


def test_precision_goes_first_where_it_buys_most_per_microsecond() -> None:
    assert put_in_order(gains(), costs()) == floats("bdcae")
    assert put_in_order(gains(), None) == floats("abcde")


def test_what_gains_nothing_comes_last_however_quick_it_is() -> None:
    found = {Exemption("worse", "float"): -1e-3, Exemption("better", "float"): 1e-6}
    quick = Costs(10.0, {("worse", "float"): -5.0, ("better", "float"): 500.0})
    assert [one.part for one in put_in_order(found, quick)] == ["better", "worse"]


@pytest.mark.parametrize("decibels", [21.0, 23.0, 25.0, 28.0, 33.0, 40.0])
def test_the_shortest_beginning_that_holds_is_found(decibels: float) -> None:
    row = put_in_order(gains(), costs())
    shortest = next(n for n in range(len(row) + 1) if judge(row[:n]).sqnr_db >= decibels)
    budget = Budget(decibels, None)
    held = search(budget, costs()).run(judge(()))
    assert (held.given, held.missed) == (row[:shortest], "")


def test_top1_is_a_budget_of_its_own() -> None:
    held = search(Budget(None, 3.0), costs()).run(judge(()))
    assert held.given == floats("bdca")
    assert judge(held.given).drop == pytest.approx(0.401)
    # Three would not do.
    assert judge(floats("bdc")).drop == pytest.approx(4.401)


def test_the_frontier_tells_what_more_precision_gives_and_costs() -> None:
    held = search(Budget(33.0, None), costs()).run(judge(()))
    assert held.frontier[0].given_back == ()
    assert held.frontier[0].microseconds == 1000.0
    for before, after in zip(held.frontier, held.frontier[1:], strict=False):
        assert len(before.given_back) < len(after.given_back)
        assert before.sqnr_db < after.sqnr_db
    chosen = next(point for point in held.frontier if len(point.given_back) == len(held.given))
    assert chosen.microseconds == 1000.0 + sum(COSTS[one.part] for one in held.given)
    assert chosen.top1 == pytest.approx(judge(held.given).top1)


def test_the_best_is_kept_where_nothing_is_good_enough() -> None:
    held = search(Budget(90.0, 0.0)).run(judge(()))
    assert held.given == floats("abcde")
    assert held.missed == "60.0 dB where 90 dB were asked for and 0.00 points of top-1 lost where 0 may be"


def test_nothing_to_give_back_is_a_miss() -> None:
    start = judge(())
    held = Search(Budget(90.0, None), (), {}, None, judge).run(start)
    assert (held.given, [point.sqnr_db for point in held.frontier]) == ((), [start.sqnr_db])
    assert held.missed


def test_four_bits_become_eight_before_they_become_float() -> None:
    schemes = {"a": "w4", "b": "int8", "c": "float", "d": "w4a8"}
    found = [(one.part, one.scheme) for one in candidates(schemes, frozenset("b"))]
    assert found == [("a", "w8"), ("a", "float"), ("d", "int8"), ("d", "float")]
    eight, whole = candidates({"a": "w4"}, frozenset())
    row = put_in_order({eight: 9e-3, whole: 9.5e-3}, None)
    assert row == (eight, whole)

    def left(given: Sequence[Exemption]) -> Quality:
        return Quality({(): 20.0, (eight,): 30.0, (whole,): 60.0}[tuple(given)])

    gained = {eight: 9e-3, whole: 9.5e-3}
    assert Search(Budget(30.0, None), row, gained, None, left).run(left(())).given == (eight,)
    assert Search(Budget(31.0, None), row, gained, None, left).run(left(())).given == (whole,)


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
