# SPDX-License-Identifier: Apache-2.0
"""Values of attentions made alike loud, channel by channel; the layer that reads the result makes up for it.

Attention mixes tokens and no channels, so that for every channel ``c`` of a value ``v' = v / s`` and
``W'_:c = W_:c s_c`` leave the output as it is (cross-layer equalization, arXiv:1906.04721, section 4.1). As the
probabilities of a query sum to one, a shift of the values arrives whole, and ``b' = b + W m`` makes up for it as it
does after a normalization. In the linear attention of MobileViT v2, ``relu(v) g``, scales pass through the ReLU, and
shifts do not.
"""

from __future__ import annotations

from collections.abc import Sequence

from vitedge.calibration.observations import Stats
from vitedge.program.editor import Editor
from vitedge.program.structure import Structure
from vitedge.program.tracing import Tracer
from vitedge.quantization.records import StepRecord
from vitedge.quantization.steps.channels import CENTRED, SCALES, ScaleCandidate, ScaleChoice, absorb, choose
from vitedge.quantization.steps.judging import Precision, Reading
from vitedge.quantization.steps.operands import Values, attention_values, linear_values


def apply(
    structure: Structure,
    inputs: dict[str, Stats],
    precision: Precision,
    candidates: Sequence[ScaleCandidate] = (*SCALES, *CENTRED),
) -> tuple[StepRecord, ...]:
    """Scales and centres the values of every attention whose output a layer reads.

    Args:
        structure: of a canonical program; its tensors are replaced.
        inputs: layer to the observations of its input; brought up to date.
        precision: what the program is prepared for.
        candidates: what is tried.
    """
    tracer = Tracer(structure.editor)
    softmax = (attention_values(tracer, attention) for attention in structure.attentions)
    found = [values for values in softmax if values is not None] + list(linear_values(structure, tracer))
    records = []
    for values in found:
        allowed = [candidate for candidate in candidates if values.centrable or not candidate.centred]
        readings = [Reading(values.output, values.columns)]
        choice = choose(structure.editor, readings, inputs, precision, allowed)
        if choice is None:
            continue
        if choice.changes:
            _divide(structure.editor, values, choice)
            absorb(structure.editor, inputs, readings, choice.scale, choice.shift)
        record = StepRecord("value equalization", values.name, choice.name, choice.before_db, choice.after_db)
        records.append(record)
    return tuple(records)


def _divide(editor: Editor, values: Values, choice: ScaleChoice) -> None:
    """Has the layer of the values compute ``(v - m) / s``."""
    weight, bias = editor.value(values.layer.weight), editor.value(values.layer.bias)
    scale, shift = choice.scale.double(), choice.shift.double()
    wide, offset = weight.double(), bias.double()
    wide[values.rows] /= scale.reshape(-1, *[1] * (weight.dim() - 1))
    offset[values.rows] = (offset[values.rows] - shift) / scale
    editor.set(values.layer.weight, wide.to(weight.dtype))
    editor.set(values.layer.bias, offset.to(bias.dtype))
