# SPDX-License-Identifier: Apache-2.0
"""The translation of the operators ``quantized_decomposed`` to operators of ONNX, one for one.

Both sides round half to even and clamp: ``QuantizeLinear`` is ``saturate(round(x / scale) + zero_point)`` and
``DequantizeLinear`` is ``(q - zero_point) * scale`` (ONNX operator specification). ``QuantizeLinear`` uses the whole
range of its type: the one level that symmetric quantization leaves out, -128, appears where a value saturates below.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
import torch.ao.quantization.fx._decomposed  # registers the operators that are named below
from onnxscript import opset18, opset21
from torch.export import ExportedProgram

from vitedge.export.formats import HALF_SCALES_SINCE
from vitedge.program.qdq import CONSTANTS, QUANTIZE

Translation = Callable[..., Any]
op: Any = opset18
SIXTEEN_BITS_SINCE = 21


def quantized_translations() -> dict[Any, Translation]:
    """Returns the entries for the table of the exporter's translations."""
    decomposed = torch.ops.quantized_decomposed
    return {
        decomposed.quantize_per_tensor.default: quantize_per_tensor,
        decomposed.dequantize_per_tensor.default: dequantize_per_tensor,
        decomposed.dequantize_per_channel.default: dequantize_per_channel,
        decomposed.dequantize_per_channel_group.default: dequantize_per_channel_group,
        decomposed.choose_qparams.tensor: choose_qparams,
        decomposed.quantize_per_tensor.tensor: quantize_by_tensors,
        decomposed.dequantize_per_tensor.tensor: dequantize_by_tensors,
    }


def needed_opset(program: ExportedProgram, *, half: bool) -> int:
    """Returns the lowest opset in which the quantizers of a program can be written; 0 where it has none.

    Args:
        program: quantized or not.
        half: whether the values that are rounded, and the scales, are float16.
    """
    calls = [node for node in program.graph.nodes if node.op == "call_function"]
    kinds = {node.args[5] for node in calls if node.target is QUANTIZE}
    if kinds & {torch.uint16, torch.int16}:
        return SIXTEEN_BITS_SINCE
    return HALF_SCALES_SINCE if half and any(node.target in (QUANTIZE, *CONSTANTS) for node in calls) else 0


def quantize_per_tensor(x: Any, scale: float, zero_point: int, *range_and_dtype: int) -> Any:
    """``QuantizeLinear`` with one scale."""
    dtype = range_and_dtype[2]
    return _operators(dtype).QuantizeLinear(x, _float(scale), _integer(zero_point, ir.DataType(dtype)))


def dequantize_per_tensor(x: Any, scale: float, zero_point: int, *range_and_dtype: int, **_: Any) -> Any:
    """``DequantizeLinear`` with one scale."""
    dtype = range_and_dtype[2]
    return _operators(dtype).DequantizeLinear(x, _float(scale), _integer(zero_point, ir.DataType(dtype)))


def dequantize_per_channel(x: Any, scales: Any, zero_points: Any, axis: int, *range_and_dtype: int, **_: Any) -> Any:
    """``DequantizeLinear`` along an axis.

    A bias in int32 has no zero point in ONNX; a weight has one, without which ONNX Runtime fuses nothing.
    """
    kind = ir.DataType(range_and_dtype[2])
    if kind == ir.DataType.INT32 or zero_points is None:
        return op.DequantizeLinear(x, scales, axis=axis)
    return op.DequantizeLinear(x, scales, op.Cast(zero_points, to=int(kind)), axis=axis)


def dequantize_per_channel_group(x: Any, scales: Any, _zero_points: Any, *rest: Any) -> Any:
    """``DequantizeLinear`` of blocks, which a pass merges into the product that reads it."""
    return opset21.DequantizeLinear(x, scales, axis=1, block_size=rest[3])


def choose_qparams(x: Any, *_: Any) -> Any:
    """Scale and zero point of ``DynamicQuantizeLinear``, whose range always holds zero."""
    _, scale, zero_point = op.DynamicQuantizeLinear(x)
    return scale, zero_point


def quantize_by_tensors(x: Any, scale: Any, zero_point: Any, *_: Any) -> Any:
    """``QuantizeLinear`` by a scale that was found at run time."""
    return op.QuantizeLinear(x, scale, zero_point)


def dequantize_by_tensors(x: Any, scale: Any, zero_point: Any, *_: Any, **__: Any) -> Any:
    """``DequantizeLinear`` by a scale that was found at run time."""
    return op.DequantizeLinear(x, scale, zero_point)


def _operators(dtype: int) -> Any:
    """Returns the oldest opset that has an integer type: operators of later opsets come with further attributes."""
    return opset21 if ir.DataType(dtype) in (ir.DataType.UINT16, ir.DataType.INT16) else op


def _float(value: float) -> Any:
    return op.Constant(value=ir.tensor(np.float32(value)))


def _integer(value: int, kind: ir.DataType) -> Any:
    return op.Constant(value=ir.tensor(kind.numpy().type(value)))
