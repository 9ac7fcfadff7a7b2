# SPDX-License-Identifier: Apache-2.0
"""Reads an ONNX file without its weights, so that a file of gigabytes is checked in megabytes.

The size of every weight is compared with its shape, and it stands in the result as an input of its name, type and
shape: for the checker and for shape inference that is the same model.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from vitedge.errors import CheckFailed

_SMALL = 1024
"""Constants up to this many bytes are kept: shape inference reads them."""
_VARINT, _LENGTH_DELIMITED = 0, 2
_MODEL_GRAPH, _GRAPH_INITIALIZER, _TENSOR_RAW_DATA = 7, 5, 9

Buffer = mmap.mmap
Field = tuple[int, int, int, int]
"""Number of the field, and the offsets in bytes of its tag, its content and its end."""


def read_skeleton(path: Path) -> onnx.ModelProto:
    """Returns the model with its weights as inputs.

    Raises:
        CheckFailed: the file is cut short, or a weight has another size than its shape says.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as buffer:
        try:
            return _read_model(path, buffer)
        except (IndexError, DecodeError) as error:
            raise CheckFailed(f"{path.name} is cut short or no ONNX file.") from error


def _read_model(path: Path, buffer: Buffer) -> onnx.ModelProto:
    rest, graph, weights = bytearray(), bytearray(), []
    for number, tag, content, end in _fields(buffer, 0, len(buffer)):
        if number != _MODEL_GRAPH:
            rest += buffer[tag:end]
            continue
        for inner, inner_tag, inner_content, inner_end in _fields(buffer, content, end):
            if inner == _GRAPH_INITIALIZER:
                weights.append(_read_weight(path, buffer, inner_content, inner_end))
            else:
                graph += buffer[inner_tag:inner_end]
    model = onnx.ModelProto()
    model.ParseFromString(bytes(rest))
    model.graph.ParseFromString(bytes(graph))
    for tensor in weights:
        if tensor.HasField("raw_data"):
            model.graph.initializer.append(tensor)
        else:
            model.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return model


def _read_weight(path: Path, buffer: Buffer, start: int, end: int) -> onnx.TensorProto:
    """Returns the tensor; its data only where it is small."""
    header, length = bytearray(), 0
    for number, tag, content, field_end in _fields(buffer, start, end):
        if number == _TENSOR_RAW_DATA:
            length = field_end - content
        if number != _TENSOR_RAW_DATA or length <= _SMALL:
            header += buffer[tag:field_end]
    tensor = onnx.TensorProto()
    tensor.ParseFromString(bytes(header))
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        length = _external_length(path, tensor)
    expected = math.prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    if length != expected:
        raise CheckFailed(f"{path.name}: the weight {tensor.name} should have {expected} bytes and has {length}.")
    return tensor


def _external_length(path: Path, tensor: onnx.TensorProto) -> int:
    """Returns how many of the weight's bytes are in the file beside the model."""
    place = {entry.key: entry.value for entry in tensor.external_data}
    beside = path.with_name(place["location"])
    available = (beside.stat().st_size if beside.exists() else 0) - int(place["offset"])
    return min(int(place["length"]), max(available, 0))


def _fields(buffer: Buffer, start: int, end: int) -> Iterator[Field]:
    """Yields the fields of a protobuf message that lies between two offsets."""
    position = start
    while position < end:
        tag = position
        key, position = _varint(buffer, position)
        number, wire_type = key >> 3, key & 7
        value, position = _varint(buffer, position)
        if wire_type not in (_VARINT, _LENGTH_DELIMITED):
            raise IndexError("a wire type that no field of these messages has")
        content = position
        position += value if wire_type == _LENGTH_DELIMITED else 0
        if position > end:
            raise IndexError("a field that reaches beyond its message")
        yield number, tag, content, position


def _varint(buffer: Buffer, position: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = buffer[position]
        number |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return number, position
