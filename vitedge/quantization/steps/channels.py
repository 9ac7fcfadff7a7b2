# SPDX-License-Identifier: Apache-2.0
"""Scales and shifts the channels of a value that layers read, chosen by the rounding error of those layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vitedge.calibration.observations import Stats
from vitedge.program.editor import Editor
from vitedge.quantization.steps.rounding_error import MARGIN_DB, Consumer, Precision, RoundingError, decibels

_LEAST = 1e-5
"""Smallest extreme of a channel, relative to the largest channel's; smaller ones are raised to it to bound scales."""


@dataclass(frozen=True)
class ScaleCandidate:
    """Channels divided by ``max|X_c|^activation / max|W_:,c|^weight``, after centring or not."""

    name: str
    activation: float
    weight: float
    centred: bool = False


OFF = ScaleCandidate("off", 0, 0)
ALPHAS = (0.15, 0.3, 0.5, 0.7, 0.85)
SCALES = (
    OFF,
    *(ScaleCandidate(f"alpha {alpha}", alpha, 1 - alpha) for alpha in ALPHAS),
    ScaleCandidate("equal ranges", 1, 0),
    ScaleCandidate("roots of ranges", 0.5, 0),
)
"""Candidates without a shift: SmoothQuant's exponents (arXiv:2211.10438, equation 4), the equal ranges of RepQ-ViT
(arXiv:2212.08254, section 3.3), and the square roots of the latter's scales."""
CENTRED = tuple(
    ScaleCandidate(
        f"centred, {scale.name}" if scale is not OFF else "centred", scale.activation, scale.weight, centred=True
    )
    for scale in SCALES
)
"""The same candidates after a shift that centres every channel's range on zero, RepQ-ViT's common zero point of 0."""


@dataclass(frozen=True, eq=False)
class ScaleChoice:
    """The best candidate with its scale and shift of the value's channels."""

    name: str
    scale: Tensor
    """``(channels,)``, float32."""
    shift: Tensor
    """``(channels,)``, float32; subtracted before the division by the scale."""
    before_db: float
    """Signal-to-noise ratio of the layers' outputs in dB without the candidate."""
    after_db: float
    """Signal-to-noise ratio of the outputs in dB with it."""

    @property
    def changes(self) -> bool:
        """Whether the candidate alters the program."""
        return self.name != OFF.name


def choose(
    editor: Editor,
    consumers: Sequence[Consumer],
    inputs: dict[str, Stats],
    precision: Precision,
    candidates: Sequence[ScaleCandidate],
) -> ScaleChoice | None:
    """Tries candidates on the channels of a value.

    Args:
        editor: of the program.
        consumers: the layers that read the value; together they read all of its channels.
        inputs: layer to the calibration statistics of its input.
        precision: the integer types that the layers are rounded to.
        candidates: to try, besides `OFF`.

    Returns:
        The one with the smallest error of the layers, or `OFF` if it gains less than `MARGIN_DB`. None where none of
        the layers was observed or all of their outputs are constant.
    """
    error = RoundingError(editor, consumers, inputs, precision)
    if not error.is_measurable:
        return None
    low, high = _extremes(consumers, inputs)
    largest = _largest_weights(editor, consumers, low.numel())
    nothing = torch.ones_like(low), torch.zeros_like(low)
    before = decibels(error.noise(*nothing))
    best = ScaleChoice(OFF.name, *nothing, before, before)
    for candidate in candidates:
        if candidate == OFF:
            continue
        shift = (low + high) / 2 if candidate.centred else torch.zeros_like(low)
        reach = torch.maximum(high - shift, shift - low)
        scale = _floored(reach) ** candidate.activation / _floored(largest) ** candidate.weight
        after = decibels(error.noise(scale, shift))
        if after > max(best.after_db, before + MARGIN_DB):
            best = ScaleChoice(candidate.name, scale, shift, before, after)
    return best


def absorb(
    editor: Editor, inputs: dict[str, Stats], consumers: Sequence[Consumer], scale: Tensor, shift: Tensor
) -> None:
    """Changes layers so that they compute from ``x' = (x - shift) / scale`` what they computed from ``x``.

    ``W'_oc = W_oc scale_c`` and ``b'_o = b_o + Σ_c W_oc shift_c``, over all taps of a convolution: exact where no zeros
    are padded around the value, or where there is no shift.

    Args:
        editor: of the program; weights and biases are replaced.
        inputs: layer to the calibration statistics of its input; transformed in place like ``x``.
        consumers: the layers that read the value.
        scale: ``(channels,)`` of the value.
        shift: ``(channels,)`` of the value.
    """
    for consumer in consumers:
        layer = consumer.layer
        weight = editor.value(layer.weight)
        shape = (1, -1, *[1] * (weight.dim() - 2))
        factor, offset = scale[consumer.columns], shift[consumer.columns]
        wide = weight.double()
        moved = (wide * offset.double().reshape(shape)).flatten(1).sum(1)
        editor.set(layer.weight, (wide * factor.double().reshape(shape)).to(weight.dtype))
        bias = editor.value(layer.bias)
        editor.set(layer.bias, (bias.double() + moved).to(bias.dtype))
        if layer.name in inputs:
            # Unused rows of the sample are not initialized, and computing with them may warn.
            with np.errstate(invalid="ignore", over="ignore"):
                inputs[layer.name] = inputs[layer.name].affine(factor, offset)


def _extremes(consumers: Sequence[Consumer], inputs: dict[str, Stats]) -> tuple[Tensor, Tensor]:
    """Returns the smallest and the largest number in each channel of the value, ``(channels,)`` each."""
    channels = 1 + max(int(consumer.columns.max()) for consumer in consumers)
    low, high = torch.full((channels,), torch.inf), torch.full((channels,), -torch.inf)
    for consumer in consumers:
        stats = inputs.get(consumer.layer.name)
        if stats is not None:
            low.scatter_reduce_(0, consumer.columns, stats.minimum, "amin")
            high.scatter_reduce_(0, consumer.columns, stats.maximum, "amax")
    unseen = low > high
    return low.masked_fill(unseen, 0), high.masked_fill(unseen, 0)


def _largest_weights(editor: Editor, consumers: Sequence[Consumer], channels: int) -> Tensor:
    """Returns the largest magnitude of the weights that multiply each channel of the value, ``(channels,)``."""
    largest = torch.zeros(channels)
    for consumer in consumers:
        weight = editor.value(consumer.layer.weight).float().abs().movedim(1, 0).flatten(1)
        largest.scatter_reduce_(0, consumer.columns, weight.amax(1), "amax")
    return largest


def _floored(extremes: Tensor) -> Tensor:
    most = extremes.max()
    return extremes.clamp_min(_LEAST * float(most)) if float(most) > 0 else torch.ones_like(extremes)
