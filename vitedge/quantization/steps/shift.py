# SPDX-License-Identifier: Apache-2.0
"""Shifts outputs of GELU, SiLU and ReLU by the middle of their range, for symmetric activation types.

They lie between a small negative number and a large positive one, so that integers whose zero point is zero leave
nearly half of their levels unused. With ``c`` the middle of the range, the layer that reads them reads ``x - c``, and
``b' = b + c Σ_c W_:c`` compensates for it: the range of asymmetric integers without a zero point (arXiv:1712.05877,
section 2.3, has the same sum for one).
"""

from __future__ import annotations

import torch

from vitedge.calibration.observations import Stats
from vitedge.program.editor import aten
from vitedge.program.structure import Layer, Structure
from vitedge.progress import counted
from vitedge.quantization.records import StepRecord
from vitedge.quantization.steps.channels import absorb
from vitedge.quantization.steps.norms import is_padded
from vitedge.quantization.steps.rounding_error import MARGIN_DB, Consumer, Precision, RoundingError, decibels

ACTIVATIONS = (aten.gelu.default, aten.silu.default, aten.relu.default)


def apply(structure: Structure, inputs: dict[str, Stats], precision: Precision) -> tuple[StepRecord, ...]:
    """Finds the shift of every layer that reads such an output, where zero points of activations have to be zero.

    The biases are written here. The subtraction is not: ``shift`` of the records is for ``Plan.shifts``, without which
    the program no longer computes what it did. Convolutions that pad with zeros are left alone.

    Args:
        structure: of a canonical program; its tensors are replaced.
        inputs: layer to the calibration statistics of its input; updated in place.
        precision: the integer types that the program is prepared for.

    Returns:
        One record for each layer that was measured.
    """
    if not precision.symmetric:
        return ()
    suited = [layer for layer in structure.layers if layer.source.target in ACTIVATIONS and layer.groups == 1]
    unpadded = counted([layer for layer in suited if not is_padded(layer)], unit="layer")
    records = [_shift(structure, layer, inputs, precision) for layer in unpadded]
    return tuple(record for record in records if record is not None)


def _shift(structure: Structure, layer: Layer, inputs: dict[str, Stats], precision: Precision) -> StepRecord | None:
    channels = structure.editor.value(layer.weight).shape[1]
    consumers = [Consumer(layer, torch.arange(channels))]
    error = RoundingError(structure.editor, consumers, inputs, precision)
    if not error.is_measurable:
        return None
    ones, stats = torch.ones(channels), inputs[layer.name]
    middle = torch.full((channels,), (stats.low + stats.high) / 2)
    before, after = (decibels(error.noise(ones, shift)) for shift in (torch.zeros(channels), middle))
    if after < before + MARGIN_DB:
        return StepRecord("shift", layer.name, "off", before, before)
    absorb(structure.editor, inputs, consumers, ones, middle)
    value = float(middle[0])
    return StepRecord("shift", layer.name, f"shift {value:.4g}", before, after, value)
