# SPDX-License-Identifier: Apache-2.0
"""From what was seen of an activation to the grid that it is rounded to."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from vitedge.calibration.observations import Stats
from vitedge.calibration.ranges import ESTIMATORS, INT8, INT16, UINT8, UINT16, ChosenRange, Levels, Sample, to_scale
from vitedge.errors import UnusableActivations
from vitedge.quantization.plan import QuantizationParameters

LEVELS: Mapping[str, Levels] = {"uint8": UINT8, "int8": INT8, "uint16": UINT16, "int16": INT16}


def activation_grid(
    layer: str, stats: Stats, dtype: str, ranges: str = "auto", importance: Tensor | None = None
) -> tuple[QuantizationParameters, ChosenRange]:
    """The grid of one activation.

    Args:
        layer: who reads it, for the error.
        stats: what was seen of it.
        dtype: ``uint8``, ``int8``, ``uint16`` or ``int16``.
        ranges: an estimator of `vitedge.calibration.ranges`, or ``auto`` for the one of least error.
        importance: what a squared error of each channel costs, ``(channels,)``.

    Returns:
        The grid and how its range was found.

    Raises:
        UnusableActivations: NaN or infinity was seen; names the layer.
    """
    levels = LEVELS[dtype]
    try:
        sample = Sample(stats.rows, float(stats.minimum.min()), float(stats.maximum.max()), importance)
    except UnusableActivations as error:
        raise UnusableActivations(
            f"What {layer} reads holds NaN or infinity on the calibration images: "
            "check the checkpoint with vitedge inspect and the images' preprocessing."
        ) from error
    # An estimator with a parameter is there several times, as ``percentile 99.9``.
    asked = [name for name in ESTIMATORS if ranges == "auto" or name.replace("-", "").startswith(ranges)]
    found = ((name, ESTIMATORS[name](sample, levels)) for name in asked)
    choices = [ChosenRange(name, covered, sample.error(covered, levels)) for name, covered in found]
    choice = min(choices, key=lambda one: one.error)
    scale, zero_point = to_scale(*choice.covered, levels)
    return QuantizationParameters(dtype, torch.tensor(scale), torch.tensor(zero_point, dtype=torch.int32)), choice
