# SPDX-License-Identifier: Apache-2.0
"""The mixed-precision search: precision is raised where it gains most per microsecond, until a budget is met.

All candidates are ranked by the noise that each removes over the time that it costs (the greedy solution of a knapsack,
Dantzig 1957). The shortest prefix of the ranking that meets the budget is found by bisection, starting at the length
that the sum of the gains predicts. Every prefix that is tried is measured on the whole program, and these measurements
make the frontier.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from vitedge.quantization.mixed_precision.costs import Costs
from vitedge.quantization.mixed_precision.sensitivity import FLOAT, Candidate
from vitedge.quantization.records import FrontierPoint
from vitedge.recipe import QuantizationRecipe

MIXED_DB = 30.0
"""Centred SQNR in dB that the scheme ``mixed`` asks for by default."""
LADDERS: Mapping[str, tuple[str, ...]] = {"w4": ("w8", FLOAT), "w4a8": ("int8", FLOAT)}
"""Scheme to the higher-precision schemes of its layers, in order of precision; every other scheme has float alone."""
_RESOLUTION_US = 1.0
"""Resolution of ONNX Runtime's profiler in microseconds; a candidate that costs less is counted at this cost."""


@dataclass(frozen=True)
class Budget:
    """The loss of quality that quantization may cost."""

    min_sqnr: float | None
    """Smallest centred SQNR in dB; None for no limit."""
    max_drop: float | None
    """Largest loss of top-1 in percentage points; None for no limit."""

    def is_met(self, quality: Quality) -> bool:
        """Returns whether a program of this quality stays within the budget."""
        return not self.shortfall(quality)

    def shortfall(self, quality: Quality) -> str:
        """Returns by how much the budget is exceeded, as one phrase; empty where it is met."""
        missing = []
        if self.min_sqnr is not None and not quality.sqnr_db >= self.min_sqnr:
            missing.append(f"{quality.sqnr_db:.1f} dB where {self.min_sqnr:g} dB were asked for")
        if self.max_drop is not None and quality.drop is not None and not quality.drop <= self.max_drop:
            missing.append(f"{quality.drop:.2f} points of top-1 lost where {self.max_drop:g} may be")
        return " and ".join(missing)


@dataclass(frozen=True)
class Quality:
    """The measured quality of a program."""

    sqnr_db: float
    """Centred SQNR in dB against the float program."""
    top1: float | None = None
    """Share of the labelled images that are classified correctly; None where none were counted."""
    drop: float | None = None
    """Percentage points of top-1 below the float program; None where none were counted."""


@dataclass(frozen=True)
class SearchResult:
    """The result of a mixed-precision search."""

    chosen: tuple[Candidate, ...] = ()
    """The parts to compute at a higher precision, each at most once."""
    frontier: tuple[FrontierPoint, ...] = ()
    """The programs that were tried, ascending in precision, each more exact than those before."""
    shortfall: str = ""
    """By how much the budget is exceeded, as one phrase; empty where it is met."""


def budget_of(recipe: QuantizationRecipe) -> Budget | None:
    """Returns the budget that a recipe asks for; None where it asks for none."""
    floor = recipe.min_sqnr
    if floor is None and recipe.max_drop is None:
        if recipe.scheme != "mixed":
            return None
        floor = MIXED_DB
    return Budget(floor, recipe.max_drop)


def find_candidates(schemes: Mapping[str, str], fixed: frozenset[str]) -> tuple[Candidate, ...]:
    """Returns every part with every higher precision that it can have.

    Args:
        schemes: layer or attention to its scheme.
        fixed: parts whose precision the user chose; they are no candidates.
    """
    return tuple(
        Candidate(part, rung)
        for part, scheme in schemes.items()
        if scheme != FLOAT and part not in fixed
        for rung in LADDERS.get(scheme, (FLOAT,))
    )


def rank(gains: Mapping[Candidate, float], costs: Costs | None) -> tuple[Candidate, ...]:
    """Returns the candidates by gain over cost, the best first and those that gain nothing last.

    Args:
        gains: candidate to the noise that it removes, relative to the signal; those of one part ascend in precision.
        costs: None where nothing could be measured; then gains alone decide.
    """
    rates: dict[Candidate, tuple[bool, float]] = {}
    reached: dict[str, tuple[float, float]] = {}
    for one, gain in gains.items():
        cost = 0.0 if costs is None else costs.extra.get((one.part, one.scheme), 0.0)
        before_gain, before_cost = reached.get(one.part, (0.0, 0.0))
        reached[one.part] = (gain, cost)
        step = gain - before_gain
        # A candidate that gains nothing is ranked by its loss alone: it is taken only where nothing else is left.
        divisor = 1.0 if costs is None or step <= 0 else max(cost - before_cost, _RESOLUTION_US)
        rates[one] = (step > 0, step / divisor)
    return tuple(sorted(rates, key=lambda one: rates[one], reverse=True))


@dataclass
class Search:
    """A search for the shortest prefix of a ranking of candidates that meets a budget."""

    budget: Budget
    ranking: tuple[Candidate, ...]
    gains: Mapping[Candidate, float]
    costs: Costs | None
    measure: Callable[[Sequence[Candidate]], Quality]
    """Measures the program with these candidates at their higher precision."""
    tried: dict[int, Quality] = field(default_factory=dict)
    """Length of a prefix to its measured quality."""

    def run(self, start: Quality) -> SearchResult:
        """Searches, and returns the shortest prefix that meets the budget, or the best one where none does.

        Args:
            start: quality of the program without any candidate; it does not meet the budget.
        """
        self.tried[0] = start
        too_short, met = 0, None
        length = self._predicted(start)
        while met is None or met - too_short > 1:
            if self.budget.is_met(self._try(length)):
                met = length
            elif length == len(self.ranking):
                break
            else:
                too_short = length
            length = min(2 * too_short + 1, len(self.ranking)) if met is None else (too_short + met) // 2
        best = met if met is not None else max(self.tried, key=self._goodness)
        shortfall = self.budget.shortfall(self.tried[best])
        return SearchResult(self._chosen(best), self._frontier(best), shortfall)

    def _try(self, length: int) -> Quality:
        if length not in self.tried:
            self.tried[length] = self.measure(self._chosen(length))
        return self.tried[length]

    def _predicted(self, start: Quality) -> int:
        """Returns the length that meets the budget if noises add up; half the ranking for a budget of top-1 alone."""
        if self.budget.min_sqnr is None:
            return max(1, len(self.ranking) // 2) if self.ranking else 0
        left = 10 ** (-start.sqnr_db / 10) - 10 ** (-self.budget.min_sqnr / 10)
        for length in range(1, len(self.ranking) + 1):
            if sum(self.gains[one] for one in self._chosen(length)) >= left:
                return length
        return len(self.ranking)

    def _chosen(self, length: int) -> tuple[Candidate, ...]:
        """Returns the candidates of a prefix of the ranking: for each part the one of highest precision."""
        order = {one: place for place, one in enumerate(self.gains)}
        parts: dict[str, Candidate] = {}
        for one in self.ranking[:length]:
            known = parts.get(one.part)
            parts[one.part] = one if known is None or order[one] > order[known] else known
        return tuple(parts.values())

    def _goodness(self, length: int) -> tuple[float, float]:
        """Returns the key to compare prefixes that exceed the budget: loss of top-1 if it is limited, then decibels."""
        quality = self.tried[length]
        drop = 0.0 if self.budget.max_drop is None or quality.drop is None else quality.drop
        return -drop, quality.sqnr_db

    def _frontier(self, chosen: int) -> tuple[FrontierPoint, ...]:
        """Returns the prefixes that are more exact than every shorter one that was tried, and the chosen one."""
        kept: list[FrontierPoint] = []
        best = -math.inf
        for length, quality in sorted(self.tried.items()):
            if quality.sqnr_db > best or length == chosen:
                kept.append(self._point(length, quality))
                best = max(best, quality.sqnr_db)
        return tuple(kept)

    def _point(self, length: int, quality: Quality) -> FrontierPoint:
        chosen = self._chosen(length)
        time = None
        if self.costs is not None:
            extra = self.costs.extra
            time = self.costs.total + sum(extra.get((one.part, one.scheme), 0.0) for one in chosen)
        parts = tuple(f"{one.part}: {one.scheme}" for one in chosen)
        return FrontierPoint(parts, quality.sqnr_db, quality.top1, quality.drop, time)
