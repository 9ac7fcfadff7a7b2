# SPDX-License-Identifier: Apache-2.0
"""Quantization of activations: ``round(x / scale) + zero_point`` and back.

On float16 it is computed in float32: a quotient is rounded once, to an integer. coremltools' own inference of
``quantize`` divides in float16, and so departs by one level where that moves a quotient onto the half between two.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vitedge.errors import UnreadableArtifact
from vitedge.mlprogram.ops.arguments import Table, dtype_of, integer

_QUANTIZED = (torch.int8, torch.uint8)


def quantize(
    input: Tensor,  # noqa: A002  (MIL's own parameter)
    scale: Tensor,
    output_dtype: str,
    zero_point: Tensor | None = None,
    axis: Tensor | None = None,
) -> Tensor:
    """Floats to ``int8`` or ``uint8`` of the same shape: halves go to the even neighbour, and the range is kept.

    Raises:
        UnreadableArtifact: another type is asked for, or the parameters do not fit the input.
    """
    dtype = dtype_of(output_dtype)
    if dtype not in _QUANTIZED:
        raise UnreadableArtifact(f"quantize makes int8 or uint8, not {output_dtype}.")
    levels = torch.round(input / along_axis(scale, input, axis))
    if zero_point is not None:
        levels += along_axis(zero_point, input, axis).float()
    limits = torch.iinfo(dtype)
    return levels.clamp_(limits.min, limits.max).to(dtype)


def dequantize(
    input: Tensor,  # noqa: A002  (MIL's own parameter)
    scale: Tensor,
    zero_point: Tensor | None = None,
    axis: Tensor | None = None,
) -> Tensor:
    """``(input - zero_point) * scale`` in float32; ``scale`` is one number or a vector along ``axis``.

    Raises:
        UnreadableArtifact: the parameters do not fit the input.
    """
    values = input.float()
    if zero_point is not None:
        values = values - along_axis(zero_point, input, axis).float()
    return values * along_axis(scale, input, axis).float()


def along_axis(parameter: Tensor, data: Tensor, axis: Tensor | None) -> Tensor:
    """A parameter so that it broadcasts over the data: one number, or a vector with one number per index of an axis.

    Raises:
        UnreadableArtifact: it is neither.
    """
    if parameter.numel() == 1:
        return parameter.reshape(())
    index = None if axis is None else integer(axis)
    if index is None or parameter.ndim != 1 or not -data.ndim <= index < data.ndim:
        raise UnreadableArtifact(f"Scales of shape {tuple(parameter.shape)} have no axis to lie along.")
    if len(parameter) != data.shape[index]:
        raise UnreadableArtifact(f"Axis {index} has {data.shape[index]} channels and {len(parameter)} scales.")
    shape = [1] * data.ndim
    shape[index] = -1
    return parameter.reshape(shape)


OPS: Table = {
    "quantize": quantize,
    "dequantize": dequantize,
}
