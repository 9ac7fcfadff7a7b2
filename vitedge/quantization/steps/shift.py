# SPDX-License-Identifier: Apache-2.0
"""Outputs of GELU, SiLU and ReLU moved to where a symmetric grid has its middle.

They lie between a small negative number and a large positive one, so that integers whose zero point is zero leave
nearly half of their levels unused. With ``c`` the middle of the range, the layer that reads them reads ``x - c``, and
``b' = b + c Σ_c W_:c`` makes up for it: the range of an asymmetric grid without a zero point (arXiv:1712.05877, section
2.3, has the same sum for one).
"""

from __future__ import annotations

import torch

from vitedge.calibration.observations import Stats
from vitedge.program.editor import aten
from vitedge.program.structure import Layer, Structure
from vitedge.quantization.records import StepRecord
from vitedge.quantization.steps.channels import absorb
from vitedge.quantization.steps.judging import MARGIN_DB, Judge, Precision, Reading, decibels
from vitedge.quantization.steps.norms import is_padded

ACTIVATIONS = (aten.gelu.default, aten.silu.default, aten.relu.default)


def apply(structure: Structure, inputs: dict[str, Stats], precision: Precision) -> tuple[StepRecord, ...]:
    """Finds the shift of every layer that reads such an output, where activations have symmetric grids.

    The biases are written here. The subtraction is not: ``shift`` of the records is for ``Plan.shifts``, without which
    the program no longer computes what it did. Convolutions that pad with zeros are left alone.

    Args:
        structure: of a canonical program; its tensors are replaced.
        inputs: layer to the observations of its input; brought up to date.
        precision: what the program is prepared for.
    """
    if not precision.symmetric:
        return ()
    suited = (layer for layer in structure.layers if layer.source.target in ACTIVATIONS and layer.groups == 1)
    records = (_shift(structure, layer, inputs, precision) for layer in suited if not is_padded(layer))
    return tuple(record for record in records if record is not None)


def _shift(structure: Structure, layer: Layer, inputs: dict[str, Stats], precision: Precision) -> StepRecord | None:
    channels = structure.editor.value(layer.weight).shape[1]
    readings = [Reading(layer, torch.arange(channels))]
    judge = Judge(structure.editor, readings, inputs, precision)
    if not judge:
        return None
    ones, stats = torch.ones(channels), inputs[layer.name]
    middle = torch.full((channels,), (stats.low + stats.high) / 2)
    before, after = (decibels(judge.noise(ones, shift)) for shift in (torch.zeros(channels), middle))
    if after < before + MARGIN_DB:
        return StepRecord("shift", layer.name, "off", before, before)
    absorb(structure.editor, inputs, readings, ones, middle)
    value = float(middle[0])
    return StepRecord("shift", layer.name, f"shift {value:.4g}", before, after, value)
