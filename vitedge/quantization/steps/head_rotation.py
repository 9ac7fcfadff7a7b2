# SPDX-License-Identifier: Apache-2.0
"""Values, queries and keys turned within their heads, so that no channel of a head stays loud.

For orthogonal ``R``: ``(A V R)(W R)ᵀ = A V Wᵀ`` and ``(Q R)(K R)ᵀ = Q Kᵀ`` (arXiv:2404.00456, section 4), head by head.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vitedge.calibration.observations import Stats
from vitedge.program.editor import Editor
from vitedge.program.structure import Attention, Layer, Structure
from vitedge.program.tracing import Tracer
from vitedge.quantization.records import StepRecord
from vitedge.quantization.steps.judging import MARGIN_DB, Precision, decibels, layer_noise
from vitedge.quantization.steps.operands import Values, attention_values, has_free_scores
from vitedge.quantization.steps.orthogonal import block_diagonal, hadamard_like, rotated
from vitedge.quantization.steps.scores import Scores, observed_scores


def apply(
    structure: Structure, inputs: dict[str, Stats], precision: Precision, seed: int = 0
) -> tuple[StepRecord, ...]:
    """Rotates the heads of every attention where that measures better.

    Args:
        structure: of a canonical program; its tensors are replaced.
        inputs: layer to the observations of its input. Those of rotated values become what the sample alone shows.
        precision: what the program is prepared for.
        seed: of the rotations.
    """
    tracer = Tracer(structure.editor)
    generator = torch.Generator().manual_seed(seed)
    records = []
    for attention in structure.attentions:
        turns = torch.stack([hadamard_like(attention.dim, generator) for _ in range(attention.heads)])
        values = attention_values(tracer, attention)
        if values is not None and values.output.name in inputs:
            records.append(_turn_values(structure.editor, values, turns, inputs, precision))
        if precision.activations is not None and has_free_scores(tracer, attention):
            records.append(_turn_scores(structure.editor, attention, turns, inputs, precision))
    return tuple(record for record in records if record is not None)


def _turn_values(
    editor: Editor, values: Values, turns: Tensor, inputs: dict[str, Stats], precision: Precision
) -> StepRecord | None:
    name = values.output.name
    weight = editor.value(values.output.weight)
    # The matrix of all heads, in the order of the input channels of the layer that reads the result.
    matrix = block_diagonal(turns)[values.columns][:, values.columns]
    turned = torch.einsum("oc...,cd->od...", weight.double(), matrix)
    stats = rotated(inputs[name], matrix)
    noises = (layer_noise(weight, inputs[name], precision), layer_noise(turned, stats, precision))
    if noises[0] is None or noises[1] is None:
        return None
    before, after = decibels(noises[0]), decibels(noises[1])
    if after < before + MARGIN_DB:
        return StepRecord("value rotation", values.name, "off", before, before)
    _turn_rows(editor, values.layer, values.rows.reshape(turns.shape[:2]), turns)
    editor.set(values.output.weight, turned.to(weight.dtype))
    inputs[name] = stats
    return StepRecord("value rotation", values.name, "rotated", before, after)


def _turn_scores(
    editor: Editor, attention: Attention, turns: Tensor, inputs: dict[str, Stats], precision: Precision
) -> StepRecord | None:
    scores = observed_scores(editor, attention, inputs)
    if scores is None or attention.query is None or attention.key is None:
        return None
    exact, single = scores.products(), turns.float()
    before = decibels(scores.noise(precision, exact))
    after = decibels(Scores(scores.query @ single, scores.key @ single).noise(precision, exact))
    if after < before + MARGIN_DB:
        return StepRecord("query rotation", attention.name, "off", before, before)
    for operand in (attention.query, attention.key):
        _turn_rows(editor, operand.layer, operand.rows, turns)
    return StepRecord("query rotation", attention.name, "rotated", before, after)


def _turn_rows(editor: Editor, layer: Layer, rows: Tensor, turns: Tensor) -> None:
    """Has a layer compute ``y R`` in the output channels ``rows``, ``(heads, dim)``, of every head."""
    for name in (layer.weight, layer.bias):
        tensor = editor.value(name)
        wide = tensor.double()
        wide[rows] = torch.einsum("hd...,hde->he...", wide[rows], turns)
        editor.set(name, wide.to(tensor.dtype))
