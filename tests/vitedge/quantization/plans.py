# SPDX-License-Identifier: Apache-2.0
"""Grids and plans for small models, written down without any search."""

from __future__ import annotations

import torch
from torch import Tensor

from vitedge.program.structure import Structure
from vitedge.quantization.parameters import QuantizationParameters, quantize


def whole(dtype: str, scale: float, zero_point: int = 0) -> QuantizationParameters:
    """One scale for a tensor."""
    return QuantizationParameters(dtype, torch.tensor(scale), torch.tensor(zero_point, dtype=torch.int32))


def channel_weight(weight: Tensor) -> tuple[Tensor, QuantizationParameters]:
    """A weight as int8 with a scale a channel."""
    scale = weight.flatten(1).abs().amax(1) / 127
    qparams = QuantizationParameters("int8", scale, torch.zeros_like(scale, dtype=torch.int32), axis=0)
    return quantize(weight, qparams), qparams


def block_weight(weight: Tensor, block: int) -> tuple[Tensor, QuantizationParameters]:
    """A weight as int4 with a scale a block."""
    scale = weight.reshape(len(weight), -1, block).abs().amax(2) / 7
    qparams = QuantizationParameters("int4", scale, torch.zeros_like(scale, dtype=torch.int32), axis=0, block=block)
    return quantize(weight, qparams), qparams


def channel_weights(structure: Structure) -> dict[str, tuple[Tensor, QuantizationParameters]]:
    """Every weight as int8."""
    return {layer.name: channel_weight(structure.editor.value(layer.weight)) for layer in structure.layers}
