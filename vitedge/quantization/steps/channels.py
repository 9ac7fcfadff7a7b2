# SPDX-License-Identifier: Apache-2.0
"""Scaling and shifting the channels of a value that layers read, searched by the error of those layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vitedge.calibration.observations import Stats
from vitedge.program.editor import Editor
from vitedge.quantization.steps.judging import MARGIN_DB, Judge, Precision, Reading, decibels

_LEAST = 1e-5
"""Of the largest extreme of a channel: quieter ones count as being so loud, so that no scale runs away."""


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
"""SmoothQuant's exponents (arXiv:2211.10438, equation 4), the equal ranges of RepQ-ViT (arXiv:2212.08254, section 3.3),
and half the way to those."""
CENTRED = tuple(
    ScaleCandidate(
        f"centred, {scale.name}" if scale is not OFF else "centred", scale.activation, scale.weight, centred=True
    )
    for scale in SCALES
)
"""The same after a shift that puts every channel's range around zero: RepQ-ViT's common zero point, where that is 0."""


@dataclass(frozen=True, eq=False)
class ScaleChoice:
    """The best candidate, and what it does to the channels of the value."""

    name: str
    scale: Tensor
    """``(channels,)``, float32."""
    shift: Tensor
    before_db: float
    after_db: float

    @property
    def changes(self) -> bool:
        """Whether there is anything to do."""
        return self.name != OFF.name


def choose(
    editor: Editor,
    readings: Sequence[Reading],
    inputs: dict[str, Stats],
    precision: Precision,
    candidates: Sequence[ScaleCandidate],
) -> ScaleChoice | None:
    """Tries candidates on the channels of a value.

    Args:
        editor: of the program.
        readings: the layers that read the value; together they read all of its channels.
        inputs: layer to the observations of its input.
        precision: what the layers are rounded to.
        candidates: to try, besides `OFF`.

    Returns:
        The one with the smallest error of the layers, or `OFF` if it gains less than `MARGIN_DB`. None where none of
        the layers was observed or all of their outputs are constant.
    """
    judge = Judge(editor, readings, inputs, precision)
    if not judge:
        return None
    low, high = _extremes(readings, inputs)
    loudest = _loudest(editor, readings, low.numel())
    nothing = torch.ones_like(low), torch.zeros_like(low)
    before = decibels(judge.noise(*nothing))
    best = ScaleChoice(OFF.name, *nothing, before, before)
    for candidate in candidates:
        if candidate == OFF:
            continue
        shift = (low + high) / 2 if candidate.centred else torch.zeros_like(low)
        reach = torch.maximum(high - shift, shift - low)
        scale = _floored(reach) ** candidate.activation / _floored(loudest) ** candidate.weight
        after = decibels(judge.noise(scale, shift))
        if after > max(best.after_db, before + MARGIN_DB):
            best = ScaleChoice(candidate.name, scale, shift, before, after)
    return best


def absorb(editor: Editor, inputs: dict[str, Stats], readings: Sequence[Reading], scale: Tensor, shift: Tensor) -> None:
    """Has layers compute from ``x' = (x - shift) / scale`` what they computed from ``x``; observations follow.

    ``W'_oc = W_oc scale_c`` and ``b'_o = b_o + Σ_c W_oc shift_c``, over all taps of a convolution: exact where no zeros
    are padded around the value, or where there is no shift.
    """
    for reading in readings:
        layer = reading.layer
        weight = editor.value(layer.weight)
        shape = (1, -1, *[1] * (weight.dim() - 2))
        factor, offset = scale[reading.columns], shift[reading.columns]
        wide = weight.double()
        moved = (wide * offset.double().reshape(shape)).flatten(1).sum(1)
        editor.set(layer.weight, (wide * factor.double().reshape(shape)).to(weight.dtype))
        bias = editor.value(layer.bias)
        editor.set(layer.bias, (bias.double() + moved).to(bias.dtype))
        if layer.name in inputs:
            # The room for rows that were never seen is not initialized, and computing with it may warn.
            with np.errstate(invalid="ignore", over="ignore"):
                inputs[layer.name] = inputs[layer.name].affine(factor, offset)


def _extremes(readings: Sequence[Reading], inputs: dict[str, Stats]) -> tuple[Tensor, Tensor]:
    """Smallest and largest number in each channel of the value, ``(channels,)`` each."""
    channels = 1 + max(int(reading.columns.max()) for reading in readings)
    low, high = torch.full((channels,), torch.inf), torch.full((channels,), -torch.inf)
    for reading in readings:
        stats = inputs.get(reading.layer.name)
        if stats is not None:
            low.scatter_reduce_(0, reading.columns, stats.minimum, "amin")
            high.scatter_reduce_(0, reading.columns, stats.maximum, "amax")
    unseen = low > high
    return low.masked_fill(unseen, 0), high.masked_fill(unseen, 0)


def _loudest(editor: Editor, readings: Sequence[Reading], channels: int) -> Tensor:
    """Largest weight by which each channel of the value is multiplied, ``(channels,)``."""
    loudest = torch.zeros(channels)
    for reading in readings:
        weight = editor.value(reading.layer.weight).float().abs().movedim(1, 0).flatten(1)
        loudest.scatter_reduce_(0, reading.columns, weight.amax(1), "amax")
    return loudest


def _floored(extremes: Tensor) -> Tensor:
    most = extremes.max()
    return extremes.clamp_min(_LEAST * float(most)) if float(most) > 0 else torch.ones_like(extremes)
