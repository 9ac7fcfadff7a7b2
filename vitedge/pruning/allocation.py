# SPDX-License-Identifier: Apache-2.0
"""How many units each part keeps, so that a budget holds and least is lost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vitedge.errors import BadRecipe
from vitedge.pruning.parts import Kind
from vitedge.pruning.ranking import Ranking

_HALVINGS = 80


@dataclass(frozen=True)
class Budget:
    """A fraction of a cost that is kept."""

    option: str
    """What was asked for, such as ``macs``."""
    fraction: float
    whole: float
    """The cost of everything."""
    fixed: float = 0.0
    """The part of it that no unit has."""
    step: float = 0.0
    """What is kept is rounded to a multiple of it; 0 where it is not."""

    @property
    def left(self) -> float:
        """Returns the cost that units may have."""
        kept = self.fraction * self.whole - self.fixed
        return round(kept / self.step) * self.step if self.step else kept


def allocate(rankings: Sequence[Ranking], prices: Mapping[str, float], budget: Budget) -> dict[str, int]:
    """Chooses the number of units that each part keeps.

    The sum of what is lost is minimized under the budget by a Lagrange multiplier, found by halving; what is left of
    the budget is then spent on the units that gain most for their price.

    Args:
        rankings: with what each number of units loses.
        prices: name of a part to the cost of one of its units.
        budget: for all of them together.

    Returns:
        Name of a part to the number of units that stay.

    Raises:
        BadRecipe: the smallest widths cost more than the budget; with the fraction that can be met.
    """
    least = {ranking.part.name: ranking.part.sizes[0] for ranking in rankings}
    smallest, left = _cost(least, prices), budget.left
    if smallest > left * (1 + 1e-9):
        reached = math.ceil(1000 * (budget.fixed + smallest) / budget.whole) / 1000
        raise BadRecipe(
            f"--{budget.option} {budget.fraction:g} cannot be met: with {_least(rankings)} in every block, {reached:g} "
            "is left; ask for that or more."
        )
    low, high = 0.0, 1.0
    while _cost(_at(rankings, prices, high), prices) > left and high < 1e30:
        high *= 16
    for _ in range(_HALVINGS):
        middle = math.sqrt(max(low, high * 1e-18) * high)
        if _cost(_at(rankings, prices, middle), prices) > left:
            low = middle
        else:
            high = middle
    chosen = _at(rankings, prices, high)
    if _cost(chosen, prices) > left:
        chosen = least
    return _spend(rankings, prices, left, chosen)


def _least(rankings: Sequence[Ranking]) -> str:
    """Returns what stays at least, such as ``one head and 8 hidden units``."""
    heads = any(ranking.part.kind is Kind.HEADS for ranking in rankings)
    others = [ranking.part for ranking in rankings if ranking.part.kind is not Kind.HEADS]
    named = ["one head"] * heads
    if others:
        unit = "hidden units" if any(part.kind is Kind.MLP for part in others) else "channels"
        named.append(f"{max(part.sizes[0] for part in others)} {unit}")
    return " and ".join(named)


def _at(rankings: Sequence[Ranking], prices: Mapping[str, float], multiplier: float) -> dict[str, int]:
    """Returns the sizes of least loss plus ``multiplier`` times cost."""
    chosen = {}
    for ranking in rankings:
        price = prices[ranking.part.name] * multiplier
        chosen[ranking.part.name] = min(ranking.losses, key=lambda size: ranking.losses[size] + price * size)
    return chosen


def _spend(
    rankings: Sequence[Ranking], prices: Mapping[str, float], budget: float, chosen: dict[str, int]
) -> dict[str, int]:
    """Makes parts wider while the budget allows it, those first whose step gains most for its price."""
    left = budget - _cost(chosen, prices)
    while True:
        steps = []
        for ranking in rankings:
            name = ranking.part.name
            size = chosen[name]
            wider = next((other for other in ranking.part.sizes if other > size), None)
            if wider is not None and (wider - size) * prices[name] <= left * (1 + 1e-9):
                price = max((wider - size) * prices[name], 1e-30)
                steps.append(((ranking.losses[size] - ranking.losses[wider]) / price, name, wider, price))
        if not steps:
            return chosen
        _, name, wider, price = max(steps)
        chosen[name] = wider
        left -= price


def _cost(sizes: Mapping[str, int], prices: Mapping[str, float]) -> float:
    return sum(size * prices[name] for name, size in sizes.items())
