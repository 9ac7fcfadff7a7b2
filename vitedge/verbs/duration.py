# SPDX-License-Identifier: Apache-2.0
"""How long a comparison takes, roughly, from the time that the reference takes for an image here."""

from __future__ import annotations

from collections.abc import Iterable

from vitedge.latency.sampling import Rule
from vitedge.recipe import CALIBRATED, SCHEMES, ResolvedRecipe
from vitedge.verbs.quantize import settings

FLOAT_S = 4.0
"""Seconds in which a float program is captured, lowered and checked, whatever its size."""
QUANTIZED_S = 8.0
"""The same of a quantized one, with the analysis of its layers."""
CALIBRATION_PASSES = 40
"""Passes of the reference over the calibration images that take as long as calibration and all that follows it."""
LOADING_S = 4.0
"""Seconds in which a process is started, a model loaded and warmed up to be measured."""
_ROUGHLY = (10, 20, 30, 45, 60, 90, 120, 180, 300, 600, 900, 1200, 1800)
"""Seconds that are told: no figure pretends to be more exact than the estimate."""


def seconds_expected(recipes: Iterable[ResolvedRecipe], image_s: float, labelled: int, rule: Rule) -> float:
    """Returns the seconds that candidates take to be made, counted and measured, within a factor of two or so.

    Args:
        recipes: of the candidates.
        image_s: seconds that the reference takes for an image.
        labelled: number of labelled images that the reference and the candidates classify.
        rule: durations of the measurement.
    """
    total = labelled * image_s
    for recipe in recipes:
        total += QUANTIZED_S if recipe.precision in SCHEMES else FLOAT_S
        if recipe.precision in CALIBRATED:
            total += CALIBRATION_PASSES * settings(recipe).image_count * image_s
        # An artifact is about as quick as the reference, or quicker.
        total += labelled * image_s + LOADING_S + rule.warmup_s + min(rule.seconds, rule.samples * image_s)
    return total


def roughly(seconds: float) -> str:
    """Returns seconds as people say them, such as ``2 min``: the nearest of a few figures."""
    told = min(_ROUGHLY, key=lambda figure: abs(figure / max(seconds, 1) - 1))
    if seconds > 1.5 * _ROUGHLY[-1]:
        return f"{seconds / 3600:.0f} h" if seconds >= 5400 else "an hour"
    return f"{told} s" if told < 120 else f"{told // 60} min"
