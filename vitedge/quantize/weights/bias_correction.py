# SPDX-License-Identifier: Apache-2.0
"""The bias of a layer whose weight and input are rounded: what it makes up for, and the integers it becomes."""

from __future__ import annotations

import torch
from torch import Tensor

from vitedge.errors import UserError
from vitedge.quantize.plan import ENDS, Grid
from vitedge.quantize.weights.rounding import Rounding, in_groups
from vitedge.quantize.weights.statistics import InputStatistics

HEADROOM = 2
"""Of int32: as much again is left for the sum that the bias is added to."""


def correct_bias(bias: Tensor, wanted: Tensor, found: Tensor) -> Tensor:
    """``b' = b + E[y] - E[y~]``: the least-squares bias (arXiv:1906.04721, section 4.2, the empirical form).

    Args:
        bias: ``(channels,)``.
        wanted: mean of the float layer's output over the calibration rows, ``(channels,)``.
        found: mean of the rounded layer's output with the bias as it is, ``(channels,)``.
    """
    return bias + (wanted - found)


def mean_error(weight: Tensor, rounding: Rounding, inputs: InputStatistics) -> Tensor:
    """``E[y] - E[y~]`` of a layer by the means of what it reads alone, ``(channels,)``, in the weight's type.

    Args:
        weight: the float weight.
        rounding: what takes its place.
        inputs: of the layer, not centred.
    """
    change = in_groups(rounding.weight(), inputs).to(torch.float64) - in_groups(weight, inputs).to(torch.float64)
    mean = -(change @ inputs.total.unsqueeze(2)).squeeze(2)
    if inputs.cross.shape[1]:
        mean = mean + inputs.residual_total
    return (mean / max(inputs.count, 1)).flatten().to(weight.dtype)


def bias_grid(layer: str, bias: Tensor, input_scale: Tensor, weight_scales: Tensor) -> Grid:
    """The grid of an int32 bias, which is added to a sum of products of integers: ``scale_x · scale_w``, no zero point.

    Args:
        layer: its name, for the error.
        bias: ``(channels,)``, float32.
        input_scale: of no axis.
        weight_scales: ``(channels,)``.

    Raises:
        UserError: a bias is too large for int32; `widened_scales` says which weight scales let it fit.
    """
    scale = (input_scale * weight_scales).to(torch.float32)
    over = _largest(bias) > scale.to(torch.float64)
    if bool(over.any()):
        channel = int(over.to(torch.int8).argmax())
        raise UserError(
            f"The bias {float(bias[channel]):.3g} of channel {channel} of {layer} overflows int32 "
            f"in steps of {float(scale[channel]):.3g}; leave that layer in float32."
        )
    return Grid("int32", scale, torch.zeros_like(scale, dtype=torch.int32), axis=0)


def widened_scales(bias: Tensor, input_scale: Tensor, weight_scales: Tensor) -> Tensor:
    """The weight scales with which every bias fits into int32; a weight is rounded with these, not before.

    A channel whose weights are next to nothing (what folding makes of a dead batch normalization) has a scale so small
    that its bias overflows; its weights lose nothing by a larger one.

    Args:
        bias: ``(channels,)``, float32.
        input_scale: of no axis.
        weight_scales: ``(channels,)``, float32.

    Returns:
        ``(channels,)``, float32; where nothing overflows, what was given.
    """
    needed = _largest(bias) / input_scale.to(torch.float64)
    # One step up, so that the product of two float32 numbers does not fall short of what is needed.
    widened = (needed * (1 + 2.0**-22)).to(torch.float32)
    return torch.where(needed > weight_scales.to(torch.float64), widened, weight_scales)


def _largest(bias: Tensor) -> Tensor:
    """The smallest step at which a bias takes up no more than its share of int32."""
    return bias.to(torch.float64).abs() * HEADROOM / ENDS["int32"][1]
