# SPDX-License-Identifier: Apache-2.0
"""The plan of a quantization: everything that it puts into a captured program, as data."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from vitedge.quantization.parameters import QuantizationParameters


@dataclass
class Plan:
    """The changes that make a captured program the quantized one, keyed by the names of the reference's modules."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    """Parameter of the canonical program to its new value, float32."""
    weights: dict[str, tuple[Tensor, QuantizationParameters]] = field(default_factory=dict)
    """Layer to the integers of its weight and their quantization parameters."""
    inputs: dict[str, QuantizationParameters] = field(default_factory=dict)
    """Layer to the quantization parameters of its input, where that is quantized; consumers of one value share them."""
    dynamic: set[str] = field(default_factory=set)
    """Layers whose input gets its scale and zero point when the program runs (dynamic quantization)."""
    attention: dict[str, dict[str, QuantizationParameters]] = field(default_factory=dict)
    """Attention to the quantization parameters of ``query``, ``key``, ``probabilities`` and ``value``."""
    shifts: dict[str, float] = field(default_factory=dict)
    """Layer to the constant subtracted from its input before that is quantized; its bias already compensates for it."""
    integer_biases: bool = True
    """Whether biases are int32; TensorRT takes them in floating point."""
