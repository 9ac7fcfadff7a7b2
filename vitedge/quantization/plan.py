# SPDX-License-Identifier: Apache-2.0
"""What quantization puts into a program, as data, and the arithmetic of rounding.

An integer ``q`` stands for the real number ``(q - zero_point) * scale`` (arXiv:1712.05877, equation 1). The integers of
a real number are ``round(x / scale) + zero_point``, half to even, clamped to the grid's ends: what the operators
``quantized_decomposed`` of PyTorch, ``QuantizeLinear`` of ONNX and ``quantize`` of Core ML compute.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

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
"""Kind of integers to the smallest and the largest: whole types, as runtimes clamp to nothing else."""

STORAGE: Mapping[str, torch.dtype] = {
    "uint8": torch.uint8,
    "int8": torch.int8,
    "int4": torch.int8,
    "uint16": torch.uint16,
    "int16": torch.int16,
    "int32": torch.int32,
}
"""Kind of integers to the type of the tensor that holds them."""


@dataclass(frozen=True, eq=False)
class QuantizationParameters:
    """The real numbers that a tensor is rounded to."""

    dtype: str
    """A key of `ENDS`."""
    scale: Tensor
    """float32: of no axis; ``(channels,)``; or ``(channels, blocks)``."""
    zero_point: Tensor
    """int32, of the same shape."""
    axis: int | None = None
    """The axis of the channels, or None where one scale serves the whole tensor."""
    block: int | None = None
    """Elements of the last axis that share a scale; the tensor is then ``(channels, elements)``."""

    @property
    def ends(self) -> tuple[int, int]:
        """The smallest and the largest integer."""
        return ENDS[self.dtype]

    @property
    def storage(self) -> torch.dtype:
        """The type of the tensor that holds the integers."""
        return STORAGE[self.dtype]


def quantize(values: Tensor, grid: QuantizationParameters) -> Tensor:
    """The integers of a float32 tensor, in the type that stores them."""
    scale, zero_point = _spread(values, grid)
    low, high = grid.ends
    # By the reciprocal, as PyTorch's own operator computes it.
    return torch.clamp(torch.round(values * (1.0 / scale)) + zero_point, low, high).to(grid.storage)


def dequantize(integers: Tensor, grid: QuantizationParameters) -> Tensor:
    """The real numbers that integers stand for, float32."""
    scale, zero_point = _spread(integers, grid)
    return (integers.to(torch.int32) - zero_point).to(torch.float32) * scale


def fake_quantize(values: Tensor, grid: QuantizationParameters) -> Tensor:
    """A float32 tensor rounded to a grid."""
    return dequantize(quantize(values, grid), grid)


def _spread(tensor: Tensor, grid: QuantizationParameters) -> tuple[Tensor, Tensor]:
    """Scale and zero point in a shape that broadcasts over the tensor."""
    if grid.axis is None:
        return grid.scale, grid.zero_point
    if grid.block is not None:
        columns = torch.arange(tensor.shape[1]) // grid.block
        return grid.scale[:, columns], grid.zero_point[:, columns]
    shape = [1] * tensor.dim()
    shape[grid.axis] = -1
    return grid.scale.reshape(shape), grid.zero_point.reshape(shape)


@dataclass
class Plan:
    """Everything that a quantized program has and the captured one has not, by the names of the reference."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    """Name of a parameter of the canonical program to its new value, float32."""
    weights: dict[str, tuple[Tensor, QuantizationParameters]] = field(default_factory=dict)
    """Layer to the integers of its weight and what they stand for."""
    inputs: dict[str, QuantizationParameters] = field(default_factory=dict)
    """Layer to the grid of its input, where that is quantized; layers that read the same value have the same."""
    dynamic: set[str] = field(default_factory=set)
    """Layers whose input gets its scale when the program runs."""
    attention: dict[str, dict[str, QuantizationParameters]] = field(default_factory=dict)
    """Attention to the grids of ``query``, ``key``, ``probabilities`` and ``value``."""
    shifts: dict[str, float] = field(default_factory=dict)
    """Layer to what is subtracted from its input before that is quantized; its bias makes up for it."""
    integer_biases: bool = True
    """Whether biases are added as integers; TensorRT takes them in floating point."""
