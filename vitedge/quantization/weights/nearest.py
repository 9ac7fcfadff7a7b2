# SPDX-License-Identifier: Apache-2.0
"""Rounds every weight to the nearest integer."""

from __future__ import annotations

from torch import Tensor

from vitedge.calibration.moments import InputStatistics
from vitedge.quantization.weights.parameters import WeightSettings
from vitedge.quantization.weights.rounding import RoundedWeight, round_to_nearest


def round_weight(weight: Tensor, settings: WeightSettings, inputs: InputStatistics | None = None) -> RoundedWeight:
    """Rounds a weight.

    Args:
        weight: ``(channels, elements)`` or ``(channels, channels in / groups, height, width)``, float32.
        settings: of the quantization parameters.
        inputs: statistics of the layer's input, which weigh the errors by which the scale is chosen.
    """
    return round_to_nearest(weight, settings, inputs)
