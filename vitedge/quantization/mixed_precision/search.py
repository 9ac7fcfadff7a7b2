# SPDX-License-Identifier: Apache-2.0
"""Holding a budget: precision is given back where it buys most per microsecond, until the result is good enough.

All exemptions stand in one row, by what each takes off the noise over what it costs (the greedy solution of a
knapsack, Dantzig 1957), and the shortest beginning of the row that meets the budget is searched by bisection, from
where the sum of the gains foresees it. Everything that is tried is measured on the whole program, and makes the
frontier.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from vitedge.quantization.mixed_precision.costs import Costs
from vitedge.quantization.mixed_precision.sensitivity import FLOAT, Exemption
from vitedge.quantization.records import FrontierPoint
from vitedge.recipe import QuantizationRecipe

MIXED_DB = 30.0
"""What ``mixed`` aims at, unless told otherwise."""
LADDERS: Mapping[str, tuple[str, ...]] = {"w4": ("w8", FLOAT), "w4a8": ("int8", FLOAT)}
"""Scheme to what a layer of that scheme can become, step by step; float alone for every other one."""
_RESOLUTION_US = 1.0
"""Of ONNX Runtime's profiler; an exemption that costs less counts as one that costs that much."""


@dataclass(frozen=True)
class Budget:
    """How far the quantized program may be from the float one."""

    min_sqnr: float | None
    """Centred SQNR in dB."""
    max_drop: float | None
    """Points of top-1."""

    def is_met(self, quality: Quality) -> bool:
        """Whether a program keeps it."""
        return not self.shortfall(quality)

    def shortfall(self, quality: Quality) -> str:
        """What is missing, as one phrase, or empty."""
        missing = []
        if self.min_sqnr is not None and not quality.sqnr_db >= self.min_sqnr:
            missing.append(f"{quality.sqnr_db:.1f} dB where {self.min_sqnr:g} dB were asked for")
        if self.max_drop is not None and quality.drop is not None and not quality.drop <= self.max_drop:
            missing.append(f"{quality.drop:.2f} points of top-1 lost where {self.max_drop:g} may be")
        return " and ".join(missing)


@dataclass(frozen=True)
class Quality:
    """How good a program is."""

    sqnr_db: float
    top1: float | None = None
    """Share of the labelled images."""
    drop: float | None = None
    """Points of top-1 below the float program."""


@dataclass(frozen=True)
class Held:
    """What came of a budget."""

    given: tuple[Exemption, ...] = ()
    """What is given back, a part at most once."""
    frontier: tuple[FrontierPoint, ...] = ()
    missed: str = ""
    """How the budget was missed, or empty."""


def budget_of(recipe: QuantizationRecipe) -> Budget | None:
    """What a recipe asks for; None where it asks for nothing."""
    floor = recipe.min_sqnr
    if floor is None and recipe.max_drop is None:
        if recipe.scheme != "mixed":
            return None
        floor = MIXED_DB
    return Budget(floor, recipe.max_drop)


def candidates(schemes: Mapping[str, str], fixed: frozenset[str]) -> tuple[Exemption, ...]:
    """Everything that can be given back.

    Args:
        schemes: part to its scheme.
        fixed: parts that stay what the user asked for.
    """
    return tuple(
        Exemption(part, rung)
        for part, scheme in schemes.items()
        if scheme != FLOAT and part not in fixed
        for rung in LADDERS.get(scheme, (FLOAT,))
    )


def put_in_order(gains: Mapping[Exemption, float], costs: Costs | None) -> tuple[Exemption, ...]:
    """The exemptions by gain over cost, those that gain nothing last.

    Args:
        gains: exemption to what it takes off the noise; those of one part in the order of their precision.
        costs: None where nothing could be measured; then gains alone decide.
    """
    rates: dict[Exemption, tuple[bool, float]] = {}
    reached: dict[str, tuple[float, float]] = {}
    for one, gain in gains.items():
        cost = 0.0 if costs is None else costs.extra.get((one.part, one.scheme), 0.0)
        before_gain, before_cost = reached.get(one.part, (0.0, 0.0))
        reached[one.part] = (gain, cost)
        step = gain - before_gain
        # What gains nothing is ranked by its loss alone: it is asked for only where nothing else is left.
        divisor = 1.0 if costs is None or step <= 0 else max(cost - before_cost, _RESOLUTION_US)
        rates[one] = (step > 0, step / divisor)
    return tuple(sorted(rates, key=lambda one: rates[one], reverse=True))


@dataclass
class Search:
    """The shortest beginning of a row of exemptions that meets a budget."""

    budget: Budget
    row: tuple[Exemption, ...]
    gains: Mapping[Exemption, float]
    costs: Costs | None
    judge: Callable[[Sequence[Exemption]], Quality]
    """Measures a program with these exemptions."""
    tried: dict[int, Quality] = field(default_factory=dict)

    def run(self, start: Quality) -> Held:
        """Searches.

        Args:
            start: without any exemption; it does not meet the budget.
        """
        self.tried[0] = start
        missed, met = 0, None
        length = self._foreseen(start)
        while met is None or met - missed > 1:
            if self.budget.is_met(self._try(length)):
                met = length
            elif length == len(self.row):
                break
            else:
                missed = length
            length = min(2 * missed + 1, len(self.row)) if met is None else (missed + met) // 2
        chosen = met if met is not None else max(self.tried, key=self._rank)
        shortfall = self.budget.shortfall(self.tried[chosen])
        return Held(self._given(chosen), self._frontier(chosen), shortfall)

    def _try(self, length: int) -> Quality:
        if length not in self.tried:
            self.tried[length] = self.judge(self._given(length))
        return self.tried[length]

    def _foreseen(self, start: Quality) -> int:
        """How many exemptions it takes if noises add up; half of them where decibels are not asked for."""
        if self.budget.min_sqnr is None:
            return max(1, len(self.row) // 2) if self.row else 0
        left = 10 ** (-start.sqnr_db / 10) - 10 ** (-self.budget.min_sqnr / 10)
        for length in range(1, len(self.row) + 1):
            if sum(self.gains[one] for one in self._given(length)) >= left:
                return length
        return len(self.row)

    def _given(self, length: int) -> tuple[Exemption, ...]:
        """The exemptions of a beginning of the row: for each part the one of highest precision."""
        order = {one: place for place, one in enumerate(self.gains)}
        parts: dict[str, Exemption] = {}
        for one in self.row[:length]:
            known = parts.get(one.part)
            parts[one.part] = one if known is None or order[one] > order[known] else known
        return tuple(parts.values())

    def _rank(self, length: int) -> tuple[float, float]:
        """What is better where nothing meets the budget: less top-1 lost where that is asked for, then decibels."""
        quality = self.tried[length]
        drop = 0.0 if self.budget.max_drop is None or quality.drop is None else quality.drop
        return -drop, quality.sqnr_db

    def _frontier(self, chosen: int) -> tuple[FrontierPoint, ...]:
        """What was tried and is more exact than everything of which less was given back; and what was chosen."""
        kept: list[FrontierPoint] = []
        best = -math.inf
        for length, quality in sorted(self.tried.items()):
            if quality.sqnr_db > best or length == chosen:
                kept.append(self._point(length, quality))
                best = max(best, quality.sqnr_db)
        return tuple(kept)

    def _point(self, length: int, quality: Quality) -> FrontierPoint:
        given = self._given(length)
        spent = None
        if self.costs is not None:
            extra = self.costs.extra
            spent = self.costs.total + sum(extra.get((one.part, one.scheme), 0.0) for one in given)
        return FrontierPoint(tuple(f"{one.part}: {one.scheme}" for one in given), quality.sqnr_db, quality.top1, spent)
