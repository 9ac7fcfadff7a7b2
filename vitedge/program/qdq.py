# SPDX-License-Identifier: Apache-2.0
"""The quantize and dequantize operators (Q/DQ) that PyTorch's own export quantization writes too."""

from __future__ import annotations

import torch
import torch.ao.quantization.fx._decomposed  # registers the operators

decomposed = torch.ops.quantized_decomposed
QUANTIZE = decomposed.quantize_per_tensor.default
DEQUANTIZE = decomposed.dequantize_per_tensor.default
DEQUANTIZE_CHANNELS = decomposed.dequantize_per_channel.default
DEQUANTIZE_BLOCKS = decomposed.dequantize_per_channel_group.default
CHOOSE = decomposed.choose_qparams.tensor
QUANTIZE_TENSOR = decomposed.quantize_per_tensor.tensor
DEQUANTIZE_TENSOR = decomposed.dequantize_per_tensor.tensor

CONSTANTS = (DEQUANTIZE_CHANNELS, DEQUANTIZE_BLOCKS)
"""Operators that dequantize stored integers; the integers are their first argument, the scales their second."""
