# SPDX-License-Identifier: Apache-2.0
"""Scales and centres the channels of normalized values, so that outlier channels do not cost the others precision.

With ``x' = (x - m) / s`` for the output ``x = g n + o`` of a normalization with gain and offset, and every layer
``W x + b`` that reads it::

    g' = g / s    o' = (o - m) / s    W'_:c = W_:c s_c    b' = b + W m

and nothing else changes. The scales are those of SmoothQuant (arXiv:2211.10438, equation 4) and, with the centres,
those of RepQ-ViT (arXiv:2212.08254, equations 5 to 9); each normalization gets the candidate with the smallest
measured error, or none. Where zeros are padded around ``x``, channels are only scaled.
"""

from __future__ import annotations

from collections.abc import Sequence

from vitedge.calibration.observations import Stats
from vitedge.program.structure import Norm, Structure
from vitedge.progress import counted
from vitedge.quantization.records import StepRecord
from vitedge.quantization.steps.channels import CENTRED, SCALES, ScaleCandidate, absorb, choose
from vitedge.quantization.steps.norms import scalable_norms
from vitedge.quantization.steps.rounding_error import Consumer, Precision


def apply(
    structure: Structure,
    inputs: dict[str, Stats],
    precision: Precision,
    candidates: Sequence[ScaleCandidate] = (*SCALES, *CENTRED),
) -> tuple[StepRecord, ...]:
    """Scales and centres the output of every normalization that only layers read.

    Args:
        structure: of a canonical program; its tensors are replaced.
        inputs: layer to the calibration statistics of its input; updated in place.
        precision: the integer types that the program is prepared for.
        candidates: the scales and shifts to try.

    Returns:
        One record for each normalization that was measured.
    """
    records = []
    for norm in counted(scalable_norms(structure), unit="norm"):
        allowed = [candidate for candidate in candidates if not (norm.padded and candidate.centred)]
        record = _smooth(structure, norm, inputs, precision, allowed)
        if record is not None:
            records.append(record)
    return tuple(records)


def _smooth(
    structure: Structure,
    norm: Norm,
    inputs: dict[str, Stats],
    precision: Precision,
    candidates: Sequence[ScaleCandidate],
) -> StepRecord | None:
    editor = structure.editor
    consumers = [Consumer(layer, columns) for layer, columns in zip(norm.readers, norm.columns, strict=True)]
    choice = choose(editor, consumers, inputs, precision, candidates)
    if choice is None:
        return None
    if choice.changes:
        weight, bias = editor.value(norm.weight), editor.value(norm.bias)
        scale, shift = choice.scale.double(), choice.shift.double()
        editor.set(norm.weight, (weight.double() / scale).to(weight.dtype))
        editor.set(norm.bias, ((bias.double() - shift) / scale).to(bias.dtype))
        absorb(editor, inputs, consumers, choice.scale, choice.shift)
    return StepRecord("smoothing", norm.name, choice.name, choice.before_db, choice.after_db)
