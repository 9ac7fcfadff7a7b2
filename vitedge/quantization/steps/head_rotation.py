# SPDX-License-Identifier: Apache-2.0
"""Rotates values, queries and keys within their heads, which spreads outlier channels over the head.

For orthogonal ``R``: ``(A V R)(W R)ᵀ = A V Wᵀ`` and ``(Q R)(K R)ᵀ = Q Kᵀ`` (arXiv:2404.00456, section 4), head by head.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vitedge.calibration.observations import Stats
from vitedge.program.editor import Editor
from vitedge.program.structure import Attention, Layer, Structure
from vitedge.program.tracing import Tracer
from vitedge.progress import counted
from vitedge.quantization.records import StepRecord
from vitedge.quantization.steps.operands import Values, attention_values, has_free_scores
from vitedge.quantization.steps.orthogonal import block_diagonal, hadamard_like, rotated
from vitedge.quantization.steps.rounding_error import MARGIN_DB, Precision, decibels, layer_noise
from vitedge.quantization.steps.scores import Scores, observed_scores


def apply(
    structure: Structure, inputs: dict[str, Stats], precision: Precision, seed: int = 0
) -> tuple[StepRecord, ...]:
    """Rotates the heads of every attention where that measures better.

    Args:
        structure: of a canonical program; its tensors are replaced.
        inputs: layer to the calibration statistics of its input, updated in place. Extremes of rotated values are
            those of the sampled rows alone.
        precision: the integer types that the program is prepared for.
        seed: of the random rotations.

    Returns:
        One record for the values and one for the queries of each attention that was measured.
    """
    tracer = Tracer(structure.editor)
    generator = torch.Generator().manual_seed(seed)
    records = []
    for attention in counted(structure.attentions, unit="attention"):
        rotations = torch.stack([hadamard_like(attention.dim, generator) for _ in range(attention.heads)])
        values = attention_values(tracer, attention)
        if values is not None and values.output.name in inputs:
            records.append(_rotate_values(structure.editor, values, rotations, inputs, precision))
        if precision.activations is not None and has_free_scores(tracer, attention):
            records.append(_rotate_scores(structure.editor, attention, rotations, inputs, precision))
    return tuple(record for record in records if record is not None)


def _rotate_values(
    editor: Editor, values: Values, rotations: Tensor, inputs: dict[str, Stats], precision: Precision
) -> StepRecord | None:
    name = values.output.name
    weight = editor.value(values.output.weight)
    # The matrix of all heads, in the order of the input channels of the layer that reads the result.
    matrix = block_diagonal(rotations)[values.columns][:, values.columns]
    rotated_weight = torch.einsum("oc...,cd->od...", weight.double(), matrix)
    stats = rotated(inputs[name], matrix)
    noises = (layer_noise(weight, inputs[name], precision), layer_noise(rotated_weight, stats, precision))
    if noises[0] is None or noises[1] is None:
        return None
    before, after = decibels(noises[0]), decibels(noises[1])
    if after < before + MARGIN_DB:
        return StepRecord("value rotation", values.name, "off", before, before)
    _rotate_rows(editor, values.layer, values.rows.reshape(rotations.shape[:2]), rotations)
    editor.set(values.output.weight, rotated_weight.to(weight.dtype))
    inputs[name] = stats
    return StepRecord("value rotation", values.name, "rotated", before, after)


def _rotate_scores(
    editor: Editor, attention: Attention, rotations: Tensor, inputs: dict[str, Stats], precision: Precision
) -> StepRecord | None:
    scores = observed_scores(editor, attention, inputs)
    if scores is None or attention.query is None or attention.key is None:
        return None
    exact, matrices = scores.products(), rotations.float()
    before = decibels(scores.noise(precision, exact))
    after = decibels(Scores(scores.query @ matrices, scores.key @ matrices).noise(precision, exact))
    if after < before + MARGIN_DB:
        return StepRecord("query rotation", attention.name, "off", before, before)
    for operand in (attention.query, attention.key):
        _rotate_rows(editor, operand.layer, operand.rows, rotations)
    return StepRecord("query rotation", attention.name, "rotated", before, after)


def _rotate_rows(editor: Editor, layer: Layer, rows: Tensor, rotations: Tensor) -> None:
    """Changes a layer so that it computes ``y R`` in the output channels ``rows``, ``(heads, dim)``, of every head."""
    for name in (layer.weight, layer.bias):
        tensor = editor.value(name)
        wide = tensor.double()
        wide[rows] = torch.einsum("hd...,hde->he...", wide[rows], rotations)
        editor.set(name, wide.to(tensor.dtype))
