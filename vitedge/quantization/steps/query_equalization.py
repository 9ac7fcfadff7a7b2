# SPDX-License-Identifier: Apache-2.0
"""Equalizes queries and keys channel by channel, for attentions whose products are quantized.

``q'_c = q_c / s_c`` and ``k'_c = k_c s_c`` leave every score as it is; ``s_c = sqrt(max|q_c| / max|k_c|)`` gives both
the same range (arXiv:1906.04721, equation 11). Shifting all keys by the same vector adds one number to all scores of
a query, to which softmax is invariant, so that keys may be centred as well. A bias or a mask that is added to the
scores changes nothing of this; a normalization of queries or a rotary embedding does, and such attentions are left
alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vitedge.calibration.observations import Stats
from vitedge.program.editor import Editor
from vitedge.program.structure import Attention, Operand, Structure
from vitedge.program.tracing import Tracer
from vitedge.progress import counted
from vitedge.quantization.records import StepRecord
from vitedge.quantization.steps.operands import has_centrable_keys, has_free_scores
from vitedge.quantization.steps.rounding_error import MARGIN_DB, Precision, decibels
from vitedge.quantization.steps.scores import Scores, observed_scores

_LEAST = 1e-5
"""Smallest extreme of a channel, relative to the largest channel's; smaller ones are raised to it to bound scales."""


def apply(structure: Structure, inputs: dict[str, Stats], precision: Precision) -> tuple[StepRecord, ...]:
    """Equalizes queries and keys of every attention that has them; does nothing where activations are not rounded.

    Args:
        structure: of a canonical program; its tensors are replaced.
        inputs: layer to the calibration statistics of its input; not changed.
        precision: the integer types that the program is prepared for.

    Returns:
        One record for each attention that was measured.
    """
    if precision.activations is None:
        return ()
    tracer = Tracer(structure.editor)
    records = []
    for attention in counted(structure.attentions, unit="attention"):
        free = has_free_scores(tracer, attention)
        scores = observed_scores(structure.editor, attention, inputs) if free else None
        if scores is not None:
            records.append(_equalize(structure.editor, attention, scores, precision))
    return tuple(records)


def _equalize(editor: Editor, attention: Attention, scores: Scores, precision: Precision) -> StepRecord:
    exact = scores.products()
    before = decibels(scores.noise(precision, exact))
    nothing = torch.ones(attention.heads, attention.dim), torch.zeros(attention.heads, attention.dim)
    best = ("off", nothing, before)
    low, high = scores.key.amin(1), scores.key.amax(1)
    shifts = {"": nothing[1]}
    if has_centrable_keys(attention):
        shifts["centred keys"] = (low + high) / 2
    for shifted, shift in shifts.items():
        reach = torch.maximum(high - shift, shift - low)
        scales = {"": nothing[0], "equal ranges": _balance(scores.query.abs().amax(1), reach)}
        for scaled, scale in scales.items():
            changed = Scores(scores.query / scale[:, None], (scores.key - shift[:, None]) * scale[:, None])
            after = decibels(changed.noise(precision, exact))
            if after > max(best[2], before + MARGIN_DB):
                best = (", ".join(part for part in (shifted, scaled) if part), (scale, shift), after)
    choice, (scale, shift), after = best
    if choice != "off" and attention.query is not None and attention.key is not None:
        _scale(editor, attention.query, 1 / scale.double(), torch.zeros_like(shift))
        _scale(editor, attention.key, scale, shift)
    return StepRecord("query equalization", attention.name, choice, before, after)


def _balance(query: Tensor, key: Tensor) -> Tensor:
    floors = [extremes.clamp_min(_LEAST * float(extremes.max()) + torch.finfo().tiny) for extremes in (query, key)]
    return torch.sqrt(floors[0] / floors[1])


def _scale(editor: Editor, operand: Operand, factor: Tensor, shift: Tensor) -> None:
    """Changes a layer so that it computes ``(y - shift) factor`` in the channels of an operand."""
    rows = operand.rows.flatten()
    weight, bias = editor.value(operand.layer.weight), editor.value(operand.layer.bias)
    wide, offset = weight.double(), bias.double()
    multiplier = factor.flatten().double()
    wide[rows] *= multiplier.reshape(-1, *[1] * (weight.dim() - 1))
    offset[rows] = (offset[rows] - shift.flatten().double()) * multiplier
    editor.set(operand.layer.weight, wide.to(weight.dtype))
    editor.set(operand.layer.bias, offset.to(bias.dtype))
