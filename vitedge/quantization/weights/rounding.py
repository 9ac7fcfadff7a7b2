# SPDX-License-Identifier: Apache-2.0
"""What a method of rounding hands back, and the comparison that keeps it from doing harm."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vitedge.quantization.plan import QuantizationParameters, dequantize, quantize
from vitedge.quantization.weights.grids import GridSettings, choose_grid
from vitedge.quantization.weights.statistics import InputStatistics


@dataclass(frozen=True, eq=False)
class RoundedWeight:
    """A rounded weight."""

    integers: Tensor
    """Of the weight's shape, in the storage type of the grid."""
    grid: QuantizationParameters
    """Of blocks, if it has any, of the weight flattened to ``(channels, elements)``."""
    method: str
    """``nearest``, ``gptq`` or ``adaround``."""
    fallbacks: int = 0
    """Output channels that kept the nearest integers, as the method found none with a smaller output error."""

    def weight(self) -> Tensor:
        """The real numbers that the integers stand for, of the weight's shape, float32."""
        return dequantize(self.integers.flatten(1), self.grid).reshape(self.integers.shape)


def round_to_nearest(weight: Tensor, settings: GridSettings, inputs: InputStatistics | None) -> RoundedWeight:
    """The nearest integers of a weight on the grid that fits it."""
    matrix = weight.flatten(1)
    importance = None
    if inputs is not None:
        importance = inputs.importance()
        if importance.shape[0] > 1:
            importance = importance.repeat_interleave(matrix.shape[0] // importance.shape[0], dim=0)
    grid = choose_grid(matrix, settings, importance)
    return RoundedWeight(quantize(matrix, grid).reshape(weight.shape), grid, "nearest")


def in_groups(weight: Tensor, inputs: InputStatistics) -> Tensor:
    """A weight, or what has its shape, as ``(groups, channels, elements)``."""
    groups = inputs.moment.shape[0]
    return weight.reshape(groups, weight.shape[0] // groups, -1)


class Contest:
    """Keeps of every output channel the rounding of the smallest output error that was entered."""

    def __init__(self, weight: Tensor, inputs: InputStatistics, nearest: RoundedWeight) -> None:
        self._weight, self._inputs, self._nearest = weight, inputs, nearest
        self.best, self._least = nearest, self._errors(nearest)

    def enter(self, rounding: RoundedWeight) -> None:
        """Another rounding of the same weight; it wins the channels where it has the smaller error."""
        errors = self._errors(rounding)
        better = errors < self._least
        self.best, self._least = _choose(better, rounding, self.best), torch.where(better, errors, self._least)

    def result(self) -> RoundedWeight:
        """The winners, and the number of the channels that are as the nearest integers leave them."""
        same = torch.eq(self.best.integers, self._nearest.integers).flatten(1).all(dim=1)
        same &= torch.eq(self.best.grid.scale, self._nearest.grid.scale).reshape(same.numel(), -1).all(dim=1)
        return replace(self.best, fallbacks=int(same.sum()))

    def _errors(self, rounding: RoundedWeight) -> Tensor:
        target = in_groups(self._weight, self._inputs)
        return self._inputs.errors(target, in_groups(rounding.weight(), self._inputs)).flatten()


def _choose(better: Tensor, new: RoundedWeight, old: RoundedWeight) -> RoundedWeight:
    def take(new: Tensor, old: Tensor) -> Tensor:
        return torch.where(better.reshape(-1, *(1,) * (new.dim() - 1)), new, old)

    scale, zero_point = take(new.grid.scale, old.grid.scale), take(new.grid.zero_point, old.grid.zero_point)
    grid = replace(new.grid, scale=scale, zero_point=zero_point)
    return replace(new, integers=take(new.integers, old.integers), grid=grid)
