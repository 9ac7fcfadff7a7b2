# SPDX-License-Identifier: Apache-2.0
"""Every weight to the nearest integer of its grid."""

from __future__ import annotations

from torch import Tensor

from vitedge.quantization.weights.grids import GridSettings
from vitedge.quantization.weights.rounding import RoundedWeight, round_to_nearest
from vitedge.quantization.weights.statistics import InputStatistics


def round_weight(weight: Tensor, settings: GridSettings, inputs: InputStatistics | None = None) -> RoundedWeight:
    """Rounds a weight.

    Args:
        weight: ``(channels, elements)`` or ``(channels, channels in / groups, height, width)``, float32.
        settings: the kind of grid.
        inputs: of the layer; they weigh the errors among which the scale is chosen.
    """
    return round_to_nearest(weight, settings, inputs)
