# SPDX-License-Identifier: Apache-2.0
"""What a unit of a part costs, and how many units a budget of the whole model leaves."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vitedge.models.cost import count_gmacs
from vitedge.models.reference import skeleton
from vitedge.pruning.allocation import Budget, allocate
from vitedge.pruning.parts import find_parts, narrow
from vitedge.pruning.ranking import Ranking
from vitedge.records import ModelSpec


@dataclass(frozen=True)
class Prices:
    """The cost of a model, part by part; it is linear in the number of units."""

    whole: float
    """Of the dense model."""
    units: Mapping[str, float]
    """Name of a part to the cost of one of its units."""

    def sizes(self, rankings: Sequence[Ranking], fraction: float, option: str) -> dict[str, int]:
        """Returns the number of units that each part keeps, so that a fraction of the whole cost stays.

        Raises:
            BadRecipe: what cannot be removed costs more than that.
        """
        removable = sum(ranking.part.units * self.units[ranking.part.name] for ranking in rankings)
        return allocate(rankings, self.units, Budget(option, fraction, self.whole, self.whole - removable))


def count_prices(spec: ModelSpec, multiple: int) -> Prices:
    """Counts the multiply-accumulates of a model's parts, in 10^9, on torch's meta device."""
    dense = skeleton(spec)
    whole = count_gmacs(spec, dense)
    units = {}
    for part in find_parts(dense, multiple):
        narrower = copy.deepcopy(dense)
        narrow(narrower, part, range(part.sizes[0]))
        removed = part.units - part.sizes[0]
        units[part.name] = (whole - count_gmacs(spec, narrower)) / removed if removed else 0.0
    return Prices(whole, units)
