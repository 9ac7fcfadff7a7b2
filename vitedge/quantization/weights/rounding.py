# SPDX-License-Identifier: Apache-2.0
"""The result of a rounding method, and the comparison per channel by which no method is worse than nearest."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vitedge.calibration.moments import InputStatistics
from vitedge.quantization.parameters import QuantizationParameters, dequantize, quantize
from vitedge.quantization.weights.parameters import WeightSettings, choose_parameters


@dataclass(frozen=True, eq=False)
class RoundedWeight:
    """A rounded weight."""

    integers: Tensor
    """The rounded weight, of the weight's shape, in the storage dtype of ``qparams``."""
    qparams: QuantizationParameters
    """Their quantization parameters; blocks are those of the weight flattened to ``(channels, elements)``."""
    method: str
    """``nearest``, ``gptq`` or ``adaround``."""
    fallbacks: int = 0
    """Number of output channels that kept the nearest integers, because the method found no smaller output error."""

    def weight(self) -> Tensor:
        """Returns the real numbers that the integers stand for, of the weight's shape, float32."""
        return dequantize(self.integers.flatten(1), self.qparams).reshape(self.integers.shape)


def round_to_nearest(weight: Tensor, settings: WeightSettings, inputs: InputStatistics | None) -> RoundedWeight:
    """Rounds a weight to the nearest integers, with the quantization parameters that fit it.

    Args:
        weight: ``(channels, elements)`` or ``(channels, channels in / groups, height, width)``, float32.
        settings: of the quantization parameters.
        inputs: statistics of the layer's input, which weigh the errors by which the scale is chosen; None without.
    """
    matrix = weight.flatten(1)
    importance = None
    if inputs is not None:
        importance = inputs.importance()
        if importance.shape[0] > 1:
            importance = importance.repeat_interleave(matrix.shape[0] // importance.shape[0], dim=0)
    qparams = choose_parameters(matrix, settings, importance)
    return RoundedWeight(quantize(matrix, qparams).reshape(weight.shape), qparams, "nearest")


def in_groups(weight: Tensor, inputs: InputStatistics) -> Tensor:
    """Reshapes a weight, or a tensor of its shape, to ``(groups, channels, elements)``."""
    groups = inputs.moment.shape[0]
    return weight.reshape(groups, weight.shape[0] // groups, -1)


class BestRounding:
    """The best of several roundings of a weight: for every output channel the one of the smallest output error."""

    def __init__(self, weight: Tensor, inputs: InputStatistics, nearest: RoundedWeight) -> None:
        self._weight, self._inputs, self._nearest = weight, inputs, nearest
        self.rounding, self._least = nearest, self._errors(nearest)

    def consider(self, rounding: RoundedWeight) -> None:
        """Compares another rounding of the same weight; it is taken for the channels where its error is smaller."""
        errors = self._errors(rounding)
        better = errors < self._least
        self.rounding, self._least = _choose(better, rounding, self.rounding), torch.where(better, errors, self._least)

    def result(self) -> RoundedWeight:
        """Returns the best rounding of every channel, with the number of channels that kept the nearest integers."""
        same = torch.eq(self.rounding.integers, self._nearest.integers).flatten(1).all(dim=1)
        same &= torch.eq(self.rounding.qparams.scale, self._nearest.qparams.scale).reshape(same.numel(), -1).all(dim=1)
        return replace(self.rounding, fallbacks=int(same.sum()))

    def _errors(self, rounding: RoundedWeight) -> Tensor:
        target = in_groups(self._weight, self._inputs)
        return self._inputs.errors(target, in_groups(rounding.weight(), self._inputs)).flatten()


def _choose(better: Tensor, new: RoundedWeight, old: RoundedWeight) -> RoundedWeight:
    def take(new: Tensor, old: Tensor) -> Tensor:
        return torch.where(better.reshape(-1, *(1,) * (new.dim() - 1)), new, old)

    scale, zero_point = take(new.qparams.scale, old.qparams.scale), take(new.qparams.zero_point, old.qparams.zero_point)
    qparams = replace(new.qparams, scale=scale, zero_point=zero_point)
    return replace(new, integers=take(new.integers, old.integers), qparams=qparams)
