# SPDX-License-Identifier: Apache-2.0
"""A tiny ONNX model, written byte by byte: it needs no package, and any ONNX Runtime since 1.8. A part of the runner.

The numbers of fields are those of ``onnx.proto`` (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto).
"""

from __future__ import annotations

from typing import Any, Union

import numpy as np

INPUT, OUTPUT = "x", "y"
SIDE = 4
_IR_VERSION = 7
_OPSET = 13
_FLOAT = 1
"""TensorProto.FLOAT"""
Value = Union[int, bytes, str]


def model(ir_version: int = _IR_VERSION, opset: int = _OPSET) -> bytes:
    """Returns a model that multiplies ``x`` (1, SIDE) by `weight`."""
    weights = _fields((1, SIDE), (1, SIDE), (2, _FLOAT), (8, "w"), (9, weight().astype("<f4").tobytes()))
    product = _fields((1, INPUT), (1, "w"), (2, OUTPUT), (4, "MatMul"))
    graph = _fields((1, product), (2, "tiny"), (5, weights), (11, _value(INPUT)), (12, _value(OUTPUT)))
    return _fields((1, ir_version), (7, graph), (8, _fields((1, ""), (2, opset))))


def weight() -> np.ndarray[Any, Any]:
    """Returns the matrix (SIDE, SIDE) in float32."""
    return (np.arange(SIDE * SIDE, dtype=np.float32).reshape(SIDE, SIDE) - 5) / 8


def example() -> np.ndarray[Any, Any]:
    """Returns an input (1, SIDE) in float32."""
    return np.linspace(-1, 1, SIDE, dtype=np.float32)[None]


def _value(name: str) -> bytes:
    shape = _fields((1, _fields((1, 1))), (1, _fields((1, SIDE))))
    return _fields((1, name), (2, _fields((1, _fields((1, _FLOAT), (2, shape))))))


def _fields(*entries: tuple[int, Value]) -> bytes:
    """Returns a message of protocol buffers: numbers of fields with integers, texts or messages."""
    out = b""
    for number, value in entries:
        if isinstance(value, int):
            out += _varint(number << 3) + _varint(value)
        else:
            data = value.encode() if isinstance(value, str) else value
            out += _varint(number << 3 | 2) + _varint(len(data)) + data
    return out


def _varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])
