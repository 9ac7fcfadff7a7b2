# SPDX-License-Identifier: Apache-2.0
"""The rounding error of layers' outputs, measured on the sampled rows of the calibration statistics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from vitedge.calibration.observations import Stats
from vitedge.program.editor import Editor
from vitedge.program.structure import Layer
from vitedge.quantization.activation import parameters_over
from vitedge.quantization.parameters import fake_quantize
from vitedge.quantization.weights.parameters import WeightSettings, choose_parameters

ROWS = 256
"""Largest number of rows of a layer's input that a measurement takes; with `OUTPUTS` channels of each, the mean square
of an error is known to 0.05 dB."""
OUTPUTS = 256
"""Largest number of output channels that it takes, evenly spread; each has its own weight scale and needs no other."""
MARGIN_DB = 0.1
"""Smallest gain in dB for which a step changes the program."""


@dataclass(frozen=True)
class Precision:
    """The integer types that a program is prepared for."""

    activations: Literal["uint8", "int8", "uint16", "int16"] | None
    """Integer type of the inputs of layers, one scale a tensor; None where only weights are rounded."""
    weights: WeightSettings = field(default_factory=lambda: WeightSettings(search=False))
    """Settings of weights; without a search for scales, to which the comparison of steps is indifferent."""

    bias_corrected: bool = True
    """Whether biases will be corrected for the mean errors of outputs, so that these do not count."""

    @property
    def symmetric(self) -> bool:
        """Whether zero points of activations have to be zero."""
        return self.activations in ("int8", "int16")


def round_activation(values: Tensor, low: float, high: float, kind: str | None) -> Tensor:
    """Returns an activation rounded to integers that cover a range, float32; unchanged where ``kind`` is None."""
    return values if kind is None else fake_quantize(values, parameters_over(low, high, kind))


def decibels(noise: float) -> float:
    """Converts a ratio of noise power to signal power into a signal-to-noise ratio in dB."""
    return -10 * math.log10(noise) if noise > 0 else math.inf


@dataclass(frozen=True, eq=False)
class Consumer:
    """A layer that reads the channels of a value."""

    layer: Layer
    columns: Tensor
    """Index of the value's channel for each input channel of the layer, ``(input channels,)`` int64."""


class RoundingError:
    """The error of the layers that read one value when they are rounded, under any scale and shift of its channels.

    Args:
        editor: of the program.
        consumers: the layers, of one group each.
        inputs: layer to the calibration statistics of its input; a layer that has none stays in float and is left out.
        precision: the integer types of inputs and weights.
    """

    def __init__(
        self, editor: Editor, consumers: Sequence[Consumer], inputs: Mapping[str, Stats], precision: Precision
    ) -> None:
        layers = [
            _LayerError(editor.value(consumer.layer.weight), inputs[consumer.layer.name], precision, consumer.columns)
            for consumer in consumers
            if consumer.layer.name in inputs
        ]
        self._layers = [layer for layer in layers if layer.signal > 0]

    @property
    def is_measurable(self) -> bool:
        """Whether a layer was observed and its output is not constant."""
        return bool(self._layers)

    def noise(self, scale: Tensor, shift: Tensor) -> float:
        """Returns the mean over the layers of the output's noise power relative to its signal power.

        The mean over the rows counts as no signal, and as no noise either where biases are corrected.

        Args:
            scale: ``(channels,)`` of the value, float32.
            shift: ``(channels,)``; the layers read ``(x - shift) / scale`` and have weights that compensate for it.
        """
        return math.fsum(layer.noise(scale, shift) for layer in self._layers) / len(self._layers)


def layer_noise(weight: Tensor, stats: Stats, precision: Precision) -> float | None:
    """Returns the noise power of one layer's output relative to its signal power, as `RoundingError` measures it.

    Args:
        weight: ``(out, in, ...)``; need not be the program's.
        stats: calibration statistics of the input that goes with it.
        precision: the integer types of both.

    Returns:
        The ratio; None where the output is constant.
    """
    layer = _LayerError(weight, stats, precision, torch.arange(weight.shape[1]))
    if layer.signal <= 0:
        return None
    return layer.noise(torch.ones(weight.shape[1]), torch.zeros(weight.shape[1]))


class _LayerError:
    """One layer with its float output on the sampled rows, to which rounded outputs are compared."""

    def __init__(self, weight: Tensor, stats: Stats, precision: Precision, columns: Tensor) -> None:
        self._columns = columns
        self._stats = stats
        self._precision = precision
        self._rows = stats.rows[:ROWS]
        outputs = weight.shape[0]
        chosen = torch.arange(min(OUTPUTS, outputs)) * outputs // min(OUTPUTS, outputs)
        # The taps of a convolution are treated as layers of their own: their sum would need neighbouring rows.
        self._weight = weight[chosen].float().reshape(len(chosen), weight.shape[1], -1)
        self._expected = self._product(self._rows, self._weight)
        self.signal = float((self._expected - self._expected.mean(0)).square().sum())

    def noise(self, scale: Tensor, shift: Tensor) -> float:
        factor, offset = scale[self._columns], shift[self._columns]
        low = float(((self._stats.minimum - offset) / factor).min())
        high = float(((self._stats.maximum - offset) / factor).max())
        rows = round_activation((self._rows - offset) / factor, low, high, self._precision.activations)
        matrix = (self._weight * factor[:, None]).flatten(1)
        rounded = fake_quantize(matrix, choose_parameters(matrix, self._precision.weights)).reshape(self._weight.shape)
        noise = self._product(rows, rounded) - self._expected
        if not self._precision.bias_corrected:
            # The bias compensates for a shift with the float weight, so what it adds to the rounded product is known.
            noise = noise + self._product(offset[None] / factor, self._weight * factor[:, None])
        else:
            noise = noise - noise.mean(0)
        return float(noise.square().sum()) / self.signal

    @staticmethod
    def _product(rows: Tensor, weight: Tensor) -> Tensor:
        return rows @ weight.movedim(1, -1).flatten(0, 1).T
