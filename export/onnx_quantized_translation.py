# SPDX-License-Identifier: Apache-2.0
"""How the operators ``quantized_decomposed`` of a quantized program become operators of ONNX, one for one.

Both sides round half to even and clamp: ``QuantizeLinear`` is ``saturate(round(x / scale) + zero_point)`` and
``DequantizeLinear`` is ``(q - zero_point) * scale`` (ONNX operator specification). ``QuantizeLinear`` uses the whole
range of its type: the one level that a symmetric grid leaves out, -128, appears where a value saturates below.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
import torch.ao.quantization.fx._decomposed  # registers the operators that are named below
from onnxscript import opset18

from vitedge.errors import BadRecipe

Translation = Callable[..., Any]
op: Any = opset18


def quantized_translations() -> dict[Any, Translation]:
    """What is added to the table of the exporter's translations."""
    decomposed = torch.ops.quantized_decomposed
    return {
        decomposed.quantize_per_tensor.default: quantize_per_tensor,
        decomposed.dequantize_per_tensor.default: dequantize_per_tensor,
        decomposed.dequantize_per_channel.default: dequantize_per_channel,
    }


def quantize_per_tensor(x: Any, scale: float, zero_point: int, _low: int, _high: int, dtype: int) -> Any:
    """``QuantizeLinear`` with one scale."""
    return op.QuantizeLinear(x, _float(scale), _integer(zero_point, _kind(dtype)))


def dequantize_per_tensor(x: Any, scale: float, zero_point: int, _low: int, _high: int, dtype: int, **_: Any) -> Any:
    """``DequantizeLinear`` with one scale."""
    return op.DequantizeLinear(x, _float(scale), _integer(zero_point, _kind(dtype)))


def dequantize_per_channel(
    x: Any,
    scales: Any,
    zero_points: Any,
    axis: int,
    _low: int,
    _high: int,
    dtype: int,
    **_: Any,
) -> Any:
    """``DequantizeLinear`` along an axis.

    A bias in int32 has no zero point in ONNX; a weight has one, without which ONNX Runtime fuses nothing.
    """
    kind = ir.DataType(dtype)
    if kind == ir.DataType.INT32 or zero_points is None:
        return op.DequantizeLinear(x, scales, axis=axis)
    return op.DequantizeLinear(x, scales, op.Cast(zero_points, to=int(kind)), axis=axis)


def _kind(dtype: int) -> ir.DataType:
    """The type of ONNX, where it is one that ``QuantizeLinear`` has at opset 18."""
    kind = ir.DataType(dtype)
    if kind not in (ir.DataType.UINT8, ir.DataType.INT8):
        raise BadRecipe(f"Activations in {kind.name.lower()} cannot be written as ONNX before opset 21; use 8 bits.")
    return kind


def _float(value: float) -> Any:
    return op.Constant(value=ir.tensor(np.float32(value)))


def _integer(value: int, kind: ir.DataType) -> Any:
    return op.Constant(value=ir.tensor(kind.numpy().type(value)))
