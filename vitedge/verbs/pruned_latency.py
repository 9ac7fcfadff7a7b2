# SPDX-License-Identifier: Apache-2.0
"""Widths that take a fraction of the dense model's time on this machine, found by measuring.

Each group of parts of one shape is narrowed by itself and timed beside the dense model, which gives the price of its
units; the budget of these prices is then corrected until the whole model takes the time that was asked for.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from vitedge import registry
from vitedge.devices.session import connect
from vitedge.errors import BadRecipe
from vitedge.export.formats import DEFAULT, FORMATS, LOWERINGS
from vitedge.latency.interleave import measure_in_turn
from vitedge.latency.model import MeasuredModel
from vitedge.latency.sampling import Rule
from vitedge.models.reference import Reference
from vitedge.program.capture import capture
from vitedge.progress import say, stage
from vitedge.pruning.costs import Prices
from vitedge.pruning.parts import Part, narrow
from vitedge.pruning.ranking import Ranking
from vitedge.recipe import ResolvedRecipe
from vitedge.registry import LOCAL

RULE = Rule(warmup_s=0.5, warmup_limit_s=2.0, samples=60, seconds=4.0, rounds=10, patience_s=300.0)
TOLERANCE = 0.02
"""How far from the fraction that was asked for the search ends."""
_ROUNDS = 6
_DENSE = "dense"
_LEAST_PRICE = 0.25
"""Least price of a unit relative to its share of the multiply-accumulates: a difference below the noise is no price."""


@dataclass
class Clock:
    """Times variants of a model against the dense one.

    Args:
        dense: the model.
        runtime: a key of `vitedge.registry.RUNTIMES` that runs ONNX files.
    """

    dense: Reference
    runtime: str

    def __post_init__(self) -> None:
        if self.runtime not in FORMATS[DEFAULT].runtimes:
            known = ", ".join(FORMATS[DEFAULT].runtimes)
            raise BadRecipe(f"--runtime {self.runtime} cannot be timed for pruning; there are {known}.")

    def ratios(self, variants: Mapping[str, nn.Module]) -> dict[str, float]:
        """Returns the time of each variant relative to the dense model's, all measured in turn."""
        target = registry.load(LOWERINGS, DEFAULT)
        with tempfile.TemporaryDirectory(prefix="vitedge-") as folder:
            models = []
            for number, (label, module) in enumerate({_DENSE: self.dense.module, **variants}.items()):
                path = Path(folder) / f"{number}.onnx"
                spec, blocks = self.dense.spec, self.dense.blocks
                features = spec.classes == 0
                whole = Reference(module, spec).deployed(uint8=False, features=features)
                target.lower(capture(whole, spec, blocks, features=features), ResolvedRecipe(), path)
                models.append(MeasuredModel(label, self.runtime, str(path)))
            with connect(LOCAL) as session:
                report = measure_in_turn(models, session, RULE)
        return {ratio.subject: ratio.ratio for ratio in report.ratios}


def find_sizes(
    clock: Clock, rankings: Sequence[Ranking], macs: Prices, fraction: float
) -> tuple[dict[str, int], float]:
    """Returns the number of units that each part keeps, and the fraction of the time that they take.

    Args:
        clock: of the dense model.
        rankings: of its parts.
        macs: multiply-accumulates of its units.
        fraction: of the dense model's time.

    Raises:
        BadRecipe: the smallest widths take longer.
    """
    prices = _prices(clock, rankings, macs)
    asked, best = fraction, None
    for turn in range(_ROUNDS):
        sizes = prices.sizes(rankings, asked, "latency")
        found = clock.ratios({"pruned": narrowed(clock.dense.module, rankings, sizes)})["pruned"]
        say(f"try {turn + 1}: {found:.3f} of the dense time, {fraction:g} asked for")
        if best is None or abs(found - fraction) < abs(best[1] - fraction):
            best = sizes, found
        if abs(found - fraction) <= TOLERANCE * fraction:
            break
        asked *= fraction / found
    if best is None:
        raise ValueError("nothing was tried")
    return best


def narrowed(module: nn.Module, rankings: Sequence[Ranking], sizes: Mapping[str, int]) -> nn.Module:
    """Returns a copy of a module with fewer units and no refit: for timing."""
    copied = copy.deepcopy(module)
    for ranking in rankings:
        narrow(copied, ranking.part, ranking.kept(sizes[ranking.part.name]))
    return copied


def _prices(clock: Clock, rankings: Sequence[Ranking], macs: Prices) -> Prices:
    """Returns the fraction of the dense model's time that a unit of each part takes."""
    groups: dict[object, list[Part]] = {}
    for ranking in rankings:
        groups.setdefault(ranking.part.group, []).append(ranking.part)
    variants = {}
    removed = {}
    for number, parts in enumerate(groups.values()):
        half = parts[0].sizes[(len(parts[0].sizes) - 1) // 2]
        removed[number] = len(parts) * (parts[0].units - half)
        sizes = {ranking.part.name: half if ranking.part in parts else ranking.part.units for ranking in rankings}
        variants[f"group {number}"] = narrowed(clock.dense.module, rankings, sizes)
    with stage(f"timing {len(groups)} groups of parts, each narrowed alone"):
        ratios = clock.ratios(variants)
    units = {}
    for number, parts in enumerate(groups.values()):
        price = (1 - ratios[f"group {number}"]) / max(removed[number], 1)
        for part in parts:
            units[part.name] = max(price, _LEAST_PRICE * macs.units[part.name] / macs.whole)
    return Prices(1.0, units)
