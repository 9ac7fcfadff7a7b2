# SPDX-License-Identifier: Apache-2.0
"""The error of a layer's output when its weight is rounded."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vitedge.calibration.moments import InputStatistics
from vitedge.quantization.parameters import QuantizationParameters, dequantize
from vitedge.quantization.weights.rounding import in_groups


def output_error(weight: Tensor, integers: Tensor, qparams: QuantizationParameters, inputs: InputStatistics) -> float:
    """Signal-to-quantization-noise ratio of the layer's output without its bias, over all channels, in dB.

    Args:
        weight: the float weight.
        integers: of its shape.
        qparams: their quantization parameters.
        inputs: of the layer; ``inputs.centred()`` for the ratio with a bias corrected by the mean error.

    Returns:
        ``10 log10(Σ ‖W x‖² / Σ ‖r - Δ x‖²)``; infinite where there is no error, NaN where there is no signal either.
    """
    matrix = in_groups(weight, inputs)
    rounded = in_groups(dequantize(integers.flatten(1), qparams), inputs)
    wide = matrix.to(torch.float64)
    signal = float((wide @ inputs.moment * wide).sum())
    noise = float(inputs.errors(matrix, rounded).sum())
    if noise <= 0:
        return math.inf if signal > 0 else math.nan
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf
