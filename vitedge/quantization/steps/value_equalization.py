# SPDX-License-Identifier: Apache-2.0
"""Equalizes the channels of attentions' values; the layer that reads the attention's result compensates for it.

Attention mixes tokens and no channels, so that for every channel ``c`` of a value ``v' = v / s`` and
``W'_:c = W_:c s_c`` leave the output as it is (cross-layer equalization, arXiv:1906.04721, section 4.1). As the
probabilities of a query sum to one, a shift of the values shifts the result by as much, and ``b' = b + W m``
compensates for it as it does after a normalization. In the linear attention of MobileViT v2, ``relu(v) g``, scales
pass through the ReLU, and shifts do not.
"""

from __future__ import annotations

from collections.abc import Sequence

from vitedge.calibration.observations import Stats
from vitedge.program.editor import Editor
from vitedge.program.structure import Structure
from vitedge.program.tracing import Tracer
from vitedge.progress import counted
from vitedge.quantization.records import StepRecord
from vitedge.quantization.steps.channels import CENTRED, SCALES, ScaleCandidate, ScaleChoice, absorb, choose
from vitedge.quantization.steps.operands import Values, attention_values, linear_values
from vitedge.quantization.steps.rounding_error import Consumer, Precision


def apply(
    structure: Structure,
    inputs: dict[str, Stats],
    precision: Precision,
    candidates: Sequence[ScaleCandidate] = (*SCALES, *CENTRED),
) -> tuple[StepRecord, ...]:
    """Scales and centres the values of every attention whose output a layer reads.

    Args:
        structure: of a canonical program; its tensors are replaced.
        inputs: layer to the calibration statistics of its input; updated in place.
        precision: the integer types that the program is prepared for.
        candidates: the scales and shifts to try.

    Returns:
        One record for each attention that was measured.
    """
    tracer = Tracer(structure.editor)
    softmax = (attention_values(tracer, attention) for attention in structure.attentions)
    found = [values for values in softmax if values is not None] + list(linear_values(structure, tracer))
    records = []
    for values in counted(found, unit="layer"):
        allowed = [candidate for candidate in candidates if values.centrable or not candidate.centred]
        consumers = [Consumer(values.output, values.columns)]
        choice = choose(structure.editor, consumers, inputs, precision, allowed)
        if choice is None:
            continue
        if choice.changes:
            _divide(structure.editor, values, choice)
            absorb(structure.editor, inputs, consumers, choice.scale, choice.shift)
        record = StepRecord("value equalization", values.name, choice.name, choice.before_db, choice.after_db)
        records.append(record)
    return tuple(records)


def _divide(editor: Editor, values: Values, choice: ScaleChoice) -> None:
    """Changes the layer that computes the values so that it computes ``(v - m) / s``."""
    weight, bias = editor.value(values.layer.weight), editor.value(values.layer.bias)
    scale, shift = choice.scale.double(), choice.shift.double()
    wide, offset = weight.double(), bias.double()
    wide[values.rows] /= scale.reshape(-1, *[1] * (weight.dim() - 1))
    offset[values.rows] = (offset[values.rows] - shift) / scale
    editor.set(values.layer.weight, wide.to(weight.dtype))
    editor.set(values.layer.bias, offset.to(bias.dtype))
