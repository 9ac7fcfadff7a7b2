# SPDX-License-Identifier: Apache-2.0
"""Quantization parameters, scale and zero point of a tensor, and the arithmetic of rounding with them.

An integer ``q`` stands for the real number ``(q - zero_point) * scale`` (arXiv:1712.05877, equation 1). The integers of
a real number are ``round(x / scale) + zero_point``, half to even, clamped to the ends of the integer type, as the
operators ``quantized_decomposed`` of PyTorch, ``QuantizeLinear`` of ONNX and ``quantize`` of Core ML compute them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

ENDS: Mapping[str, tuple[int, int]] = {
    "uint8": (0, 255),
    "int8": (-128, 127),
    "int4": (-8, 7),
    "uint16": (0, 65535),
    "int16": (-32768, 32767),
    "int32": (-(2**31) + 1, 2**31 - 1),
}
"""Integer type to its smallest and largest integer: those of the whole type, because runtimes clamp to nothing else."""

STORAGE: Mapping[str, torch.dtype] = {
    "uint8": torch.uint8,
    "int8": torch.int8,
    "int4": torch.int8,
    "uint16": torch.uint16,
    "int16": torch.int16,
    "int32": torch.int32,
}
"""Integer type to the dtype of the tensor that holds such integers."""


@dataclass(frozen=True, eq=False)
class QuantizationParameters:
    """The scale, the zero point and the integer type with which a tensor is quantized."""

    dtype: str
    """Integer type, a key of `ENDS`."""
    scale: Tensor
    """float32: a scalar, ``(channels,)`` or ``(channels, blocks)``."""
    zero_point: Tensor
    """int32, of the same shape."""
    axis: int | None = None
    """The axis of the channels, or None where one scale serves the whole tensor."""
    block: int | None = None
    """Number of elements of the last axis that share a scale; the tensor is then ``(channels, elements)``."""

    @property
    def ends(self) -> tuple[int, int]:
        """The smallest and the largest integer of the type."""
        return ENDS[self.dtype]

    @property
    def storage(self) -> torch.dtype:
        """The dtype of the tensor that holds the integers."""
        return STORAGE[self.dtype]


def quantize(values: Tensor, qparams: QuantizationParameters) -> Tensor:
    """Returns the integers that a float32 tensor is rounded to, of the same shape, in the storage dtype."""
    scale, zero_point = _spread(values, qparams)
    low, high = qparams.ends
    # By the reciprocal, as PyTorch's own operator computes it.
    return torch.clamp(torch.round(values * (1.0 / scale)) + zero_point, low, high).to(qparams.storage)


def dequantize(integers: Tensor, qparams: QuantizationParameters) -> Tensor:
    """Returns the real numbers that integers stand for, of the same shape, float32."""
    scale, zero_point = _spread(integers, qparams)
    return (integers.to(torch.int32) - zero_point).to(torch.float32) * scale


def fake_quantize(values: Tensor, qparams: QuantizationParameters) -> Tensor:
    """Returns a float32 tensor quantized and dequantized again, of the same shape, float32."""
    return dequantize(quantize(values, qparams), qparams)


def _spread(tensor: Tensor, qparams: QuantizationParameters) -> tuple[Tensor, Tensor]:
    """Returns scale and zero point in shapes that broadcast over the tensor."""
    if qparams.axis is None:
        return qparams.scale, qparams.zero_point
    if qparams.block is not None:
        columns = torch.arange(tensor.shape[1]) // qparams.block
        return qparams.scale[:, columns], qparams.zero_point[:, columns]
    shape = [1] * tensor.dim()
    shape[qparams.axis] = -1
    return qparams.scale.reshape(shape), qparams.zero_point.reshape(shape)
