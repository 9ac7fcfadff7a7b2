# SPDX-License-Identifier: Apache-2.0
"""The quantization parameters of an activation, from its calibration statistics."""

from __future__ import annotations

import torch
from torch import Tensor

from vitedge.calibration.observations import Stats
from vitedge.calibration.ranges import ESTIMATORS, LEVELS, ChosenRange, Sample, choose_range, to_scale
from vitedge.errors import UnusableActivations
from vitedge.quantization.parameters import QuantizationParameters


def activation_parameters(
    layer: str, stats: Stats, dtype: str, ranges: str = "auto", importance: Tensor | None = None
) -> tuple[QuantizationParameters, ChosenRange]:
    """Returns the quantization parameters of one activation, per tensor.

    Args:
        layer: name of the layer that reads it, for the error's text.
        stats: calibration statistics of the activation.
        dtype: ``uint8``, ``int8``, ``uint16`` or ``int16``.
        ranges: an estimator of `vitedge.calibration.ranges`, or ``auto`` for the one of least error.
        importance: weight of each channel's squared error, ``(channels,)``.

    Returns:
        The parameters, and the range that they cover with the estimator that found it.

    Raises:
        UnusableActivations: the statistics hold NaN or infinity; names the layer.
    """
    levels = LEVELS[dtype]
    try:
        sample = Sample(stats.rows, float(stats.minimum.min()), float(stats.maximum.max()), importance)
    except UnusableActivations as error:
        raise UnusableActivations(
            f"The input of {layer} holds NaN or infinity on the calibration images: "
            "check the checkpoint with vitedge inspect and the images' preprocessing."
        ) from error
    # An estimator with a parameter has several entries, such as ``percentile 99.9``.
    allowed = [name for name in ESTIMATORS if ranges == "auto" or name.replace("-", "").startswith(ranges)]
    choice = choose_range(sample, levels, allowed)
    return parameters_over(*choice.covered, dtype), choice


def parameters_over(low: float, high: float, dtype: str) -> QuantizationParameters:
    """Returns the per-tensor parameters whose integers cover a range.

    Args:
        low: smallest real number; zero is always covered too.
        high: largest real number.
        dtype: ``uint8``, ``int8``, ``uint16`` or ``int16``.
    """
    scale, zero_point = to_scale(low, high, LEVELS[dtype])
    return QuantizationParameters(dtype, torch.tensor(scale), torch.tensor(zero_point, dtype=torch.int32))
