# SPDX-License-Identifier: Apache-2.0
"""How far layers are off when they are rounded, measured on the rows that calibration kept, and what a step did."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from vitedge.calibration.observations import Stats
from vitedge.calibration.ranges import INT8, INT16, UINT8, UINT16, to_scale
from vitedge.program.editor import Editor
from vitedge.program.structure import Layer
from vitedge.quantization.plan import QuantizationParameters, fake_quantize
from vitedge.quantization.weights.grids import GridSettings, choose_grid

ROWS = 256
"""Rows of a layer's input that a measurement takes, at most; with `OUTPUTS` channels of each, the mean square of an
error is known to 0.05 dB."""
OUTPUTS = 256
"""Output channels that it takes, at most, evenly spread; each has a weight scale of its own and needs no other."""
MARGIN_DB = 0.1
"""A step that gains less leaves the program alone."""
_LEVELS = {"uint8": UINT8, "int8": INT8, "uint16": UINT16, "int16": INT16}


@dataclass(frozen=True)
class Precision:
    """What a program is prepared for."""

    activations: Literal["uint8", "int8", "uint16", "int16"] | None
    """Integers of the inputs of layers, one scale a tensor; None where only weights are rounded."""
    weights: GridSettings = field(default_factory=lambda: GridSettings(search=False))
    """The grids of weights; without a search for scales, which is not what the steps are compared by."""

    bias_corrected: bool = True
    """Whether biases will make up for the mean errors of outputs, so that these do not count."""

    @property
    def symmetric(self) -> bool:
        """Whether zero points of activations have to be zero."""
        return self.activations in ("int8", "int16")


def grid_of(low: float, high: float, kind: str) -> QuantizationParameters:
    """One scale for a whole activation, over all of its range."""
    scale, zero_point = to_scale(low, high, _LEVELS[kind])
    return QuantizationParameters(kind, torch.tensor(scale), torch.tensor(zero_point, dtype=torch.int32))


def round_activation(values: Tensor, low: float, high: float, kind: str | None) -> Tensor:
    """An activation as its integers would have it, float32; as it is where it has none."""
    return values if kind is None else fake_quantize(values, grid_of(low, high, kind))


def decibels(noise: float) -> float:
    """A ratio of noise to signal as signal-to-noise ratio in dB."""
    return -10 * math.log10(noise) if noise > 0 else math.inf


@dataclass(frozen=True, eq=False)
class Reading:
    """A layer that reads the channels of some value."""

    layer: Layer
    columns: Tensor
    """For each of its input channels the number of the value's channel, int64."""


class Judge:
    """Rounds the layers that read one value, with that value's channels scaled and shifted as asked.

    Args:
        editor: of the program.
        readings: those layers, of one group.
        inputs: layer to the observations of its input; layers that have none stay in float and do not count.
        precision: what they are rounded to.
    """

    def __init__(
        self, editor: Editor, readings: Sequence[Reading], inputs: Mapping[str, Stats], precision: Precision
    ) -> None:
        cases = [
            _Case(editor.value(reading.layer.weight), inputs[reading.layer.name], precision, reading.columns)
            for reading in readings
            if reading.layer.name in inputs
        ]
        self._cases = [case for case in cases if case.signal > 0]

    def __bool__(self) -> bool:
        return bool(self._cases)

    def noise(self, scale: Tensor, shift: Tensor) -> float:
        """Mean over the layers of the noise of the output relative to its signal.

        The mean over the rows is no signal, and no noise either where biases are corrected.

        Args:
            scale: ``(channels,)`` of the value, float32.
            shift: ``(channels,)``; the layers read ``(x - shift) / scale`` and have weights that make up for it.
        """
        return math.fsum(case.noise(scale, shift) for case in self._cases) / len(self._cases)


def layer_noise(weight: Tensor, stats: Stats, precision: Precision) -> float | None:
    """Noise of the output of one layer relative to its signal, as `Judge` measures it; None where there is no signal.

    Args:
        weight: ``(out, in, ...)``; need not be the program's.
        stats: of the input that goes with it.
        precision: what both are rounded to.
    """
    case = _Case(weight, stats, precision, torch.arange(weight.shape[1]))
    if case.signal <= 0:
        return None
    return case.noise(torch.ones(weight.shape[1]), torch.zeros(weight.shape[1]))


class _Case:
    """One layer, with its product in float."""

    def __init__(self, weight: Tensor, stats: Stats, precision: Precision, columns: Tensor) -> None:
        self._columns = columns
        self._stats = stats
        self._precision = precision
        self._rows = stats.rows[:ROWS]
        outputs = weight.shape[0]
        chosen = torch.arange(min(OUTPUTS, outputs)) * outputs // min(OUTPUTS, outputs)
        # The taps of a convolution are taken for layers of their own: their sum would need neighbouring rows.
        self._weight = weight[chosen].float().reshape(len(chosen), weight.shape[1], -1)
        self._wanted = self._product(self._rows, self._weight)
        self.signal = float((self._wanted - self._wanted.mean(0)).square().sum())

    def noise(self, scale: Tensor, shift: Tensor) -> float:
        factor, offset = scale[self._columns], shift[self._columns]
        low = float(((self._stats.minimum - offset) / factor).min())
        high = float(((self._stats.maximum - offset) / factor).max())
        rows = round_activation((self._rows - offset) / factor, low, high, self._precision.activations)
        matrix = (self._weight * factor[:, None]).flatten(1)
        rounded = fake_quantize(matrix, choose_grid(matrix, self._precision.weights)).reshape(self._weight.shape)
        noise = self._product(rows, rounded) - self._wanted
        if not self._precision.bias_corrected:
            # A shift is made up for by a bias of W, so that what it adds to the product of the rounded rows is known.
            noise = noise + self._product(offset[None] / factor, self._weight * factor[:, None])
        else:
            noise = noise - noise.mean(0)
        return float(noise.square().sum()) / self.signal

    @staticmethod
    def _product(rows: Tensor, weight: Tensor) -> Tensor:
        return rows @ weight.movedim(1, -1).flatten(0, 1).T
