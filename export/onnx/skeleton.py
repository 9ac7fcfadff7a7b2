# SPDX-License-Identifier: Apache-2.0
"""Reads an ONNX file without its weights, so that a file of gigabytes is checked in megabytes.

The size of every weight is compared with its shape, and it stands in the result as an input of its name, type and
shape: for the checker and for shape inference that is the same model.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from vitedge.errors import CheckFailed

_SMALL = 1024
"""Constants up to this many bytes are kept: shape inference reads them."""
_VARINT, _LENGTH_DELIMITED = 0, 2
_MODEL_GRAPH, _GRAPH_INITIALIZER, _TENSOR_RAW_DATA = 7, 5, 9
_TENSOR_TYPED_DATA = (4, 5, 6, 7, 10, 11)
"""Fields that hold elements as numbers of one type, as some exporters write them."""
_MOST_FIELDS = 2**20
"""Fields of one message, nodes and weights of a graph among them; MobileViT v2 has 3000."""

Buffer = mmap.mmap
Field = tuple[int, int, int, int]
"""Number of the field, and the offsets in bytes of its tag, its content and its end."""


class Place(NamedTuple):
    """The bytes of a weight."""

    file: Path
    offset: int
    length: int


class Skeleton(NamedTuple):
    """A model without its weights."""

    model: onnx.ModelProto
    """Large weights are inputs."""
    weights: tuple[onnx.TensorProto, ...]
    """Name, type and shape of every weight; small ones with their elements."""
    places: Mapping[str, Place]
    """Name of a weight to its bytes; not where a file holds them as numbers of one type."""

    def numbers(self, name: str) -> NDArray[Any] | None:
        """Returns a weight, mapped from its file; None where none of that name is stored in whole bytes."""
        place = self.places.get(name)
        tensor = next((weight for weight in self.weights if weight.name == name), None)
        if place is None or tensor is None or not place.length:
            return None
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        if dtype.itemsize * math.prod(tensor.dims) != place.length:
            return None
        return np.memmap(place.file, dtype, "r", place.offset, tuple(tensor.dims))


def read_skeleton(path: Path) -> Skeleton:
    """Reads a model without its weights.

    Raises:
        CheckFailed: the file is cut short, a weight has another size than its shape says, or the file with the weights
            is missing.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as buffer:
        try:
            return _read_model(path, buffer)
        except (IndexError, DecodeError) as error:
            raise CheckFailed(f"{path} is not an ONNX model, or is cut short.") from error


def _read_model(path: Path, buffer: Buffer) -> Skeleton:
    rest, graph = bytearray(), bytearray()
    weights: list[onnx.TensorProto] = []
    places: dict[str, Place] = {}
    for number, tag, content, end in _fields(buffer, 0, len(buffer)):
        if number != _MODEL_GRAPH:
            rest += buffer[tag:end]
            continue
        for inner, inner_tag, inner_content, inner_end in _fields(buffer, content, end):
            if inner == _GRAPH_INITIALIZER:
                tensor, place = _read_weight(path, buffer, inner_content, inner_end)
                weights.append(tensor)
                places.update({} if place is None else {tensor.name: place})
            else:
                graph += buffer[inner_tag:inner_end]
    model = onnx.ModelProto()
    model.ParseFromString(bytes(rest))
    model.graph.ParseFromString(bytes(graph))
    for tensor in weights:
        if _has_elements(tensor):
            model.graph.initializer.append(tensor)
        else:
            model.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return Skeleton(model, tuple(weights), places)


def _has_elements(tensor: onnx.TensorProto) -> bool:
    return any(field.number in (_TENSOR_RAW_DATA, *_TENSOR_TYPED_DATA) for field, _ in tensor.ListFields())


def _read_weight(path: Path, buffer: Buffer, start: int, end: int) -> tuple[onnx.TensorProto, Place | None]:
    """Returns the tensor, its data only where it is small, and the place of its bytes."""
    header, offset, length, is_typed = bytearray(), 0, 0, False
    for number, tag, content, field_end in _fields(buffer, start, end):
        is_elements = number == _TENSOR_RAW_DATA or number in _TENSOR_TYPED_DATA
        is_typed |= number in _TENSOR_TYPED_DATA
        if number == _TENSOR_RAW_DATA:
            offset, length = content, field_end - content
        if not is_elements or field_end - content <= _SMALL:
            header += buffer[tag:field_end]
    tensor = onnx.TensorProto()
    tensor.ParseFromString(bytes(header))
    place = Place(path, offset, length) if length else None
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        place = _external_place(path, tensor)
        length = place.length
    expected = math.prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    if length != expected and not is_typed:  # numbers of one type have other lengths in the file than in memory
        raise CheckFailed(f"{path.name}: the weight {tensor.name} should have {expected} bytes and has {length}.")
    return tensor, place


def _external_place(path: Path, tensor: onnx.TensorProto) -> Place:
    """Returns where the weight's bytes are in the file beside the model, as many as there are."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    name, offset = entries.get("location", ""), int(entries.get("offset", 0))
    beside = path.parent / name
    if Path(name).name != name or not beside.is_file():
        raise CheckFailed(f"{path} keeps its weights in {name}, which is not beside it.")
    available: int = max(beside.stat().st_size - offset, 0)
    length: int = int(entries.get("length", available))
    return Place(beside, offset, min(length, available))


def _fields(buffer: Buffer, start: int, end: int) -> Iterator[Field]:
    """Yields the fields of a protobuf message that lies between two offsets."""
    position, count = start, 0
    while position < end:
        tag, count = position, count + 1
        key, position = _varint(buffer, position)
        number, wire_type = key >> 3, key & 7
        value, position = _varint(buffer, position)
        if number == 0 or wire_type not in (_VARINT, _LENGTH_DELIMITED) or count > _MOST_FIELDS:
            raise IndexError("a number or a wire type that no field of these messages has, or fields without end")
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
