# SPDX-License-Identifier: Apache-2.0
"""Writes an ONNX file tensor by tensor, so that a model needs no second copy of its weights in memory.

The protobuf library builds the whole message before it writes the first byte. Here it serializes all but the weights;
those follow in the wire format of ``ModelProto.graph.initializer`` (https://protobuf.dev/programming-guides/encoding,
onnx.proto), whose lengths are known beforehand.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import onnx
import onnx_ir as ir

ONE_FILE_LIMIT = 2**31 - 1
"""Largest protobuf message in bytes; a larger model gets its weights in a file beside it."""
EXTERNAL_MINIMUM = 1024
"""Weights of fewer bytes stay in the model's file: shapes and scales have to be seen by shape inference."""

_ALIGNMENT = 4096
"""Offsets of external weights are multiples of a page, so that they can be mapped."""
_LENGTH_DELIMITED = 2
_MODEL_GRAPH = 7
_GRAPH_INITIALIZER = 5
_TENSOR_RAW_DATA = 9


@dataclass(frozen=True)
class WrittenFile:
    """One file with what identifies it."""

    path: Path
    sha256: str
    size: int


@dataclass(frozen=True)
class _Weight:
    """An initializer by the name of its value; its tensor may be computed when it is read."""

    name: str
    tensor: ir.TensorProtocol

    @property
    def nbytes(self) -> int:
        return self.tensor.nbytes

    def header(self) -> bytes:
        """Returns the serialized ``TensorProto`` without its data."""
        dims = [int(str(edge)) for edge in self.tensor.shape]
        proto = onnx.TensorProto(name=self.name, data_type=int(self.tensor.dtype), dims=dims)
        return bytes(proto.SerializeToString(deterministic=True))


def write_onnx(model: ir.Model, out: Path, one_file_limit: int = ONE_FILE_LIMIT) -> tuple[WrittenFile, ...]:
    """Writes the model to ``out``, and to ``<out>.data`` what does not fit.

    Returns:
        The files; the model's own first.
    """
    weights = [
        _Weight(name, value.const_value)
        for name, value in model.graph.initializers.items()
        if value.const_value is not None
    ]
    skeleton = _without_weights(model)
    head = onnx.ModelProto()
    head.CopyFrom(skeleton)
    head.ClearField("graph")
    headers = [weight.header() for weight in weights]
    body = skeleton.graph.SerializeToString(deterministic=True)
    records = [
        header + _prefix(_TENSOR_RAW_DATA, weight.nbytes) for header, weight in zip(headers, weights, strict=True)
    ]
    length = len(body) + sum(
        len(_prefix(_GRAPH_INITIALIZER, len(record) + weight.nbytes)) + len(record) + weight.nbytes
        for record, weight in zip(records, weights, strict=True)
    )
    start = head.SerializeToString(deterministic=True) + _prefix(_MODEL_GRAPH, length) + body
    if len(start) - len(body) + length > one_file_limit:
        return _write_externally(skeleton, weights, out)
    with _Hashing(out) as file:
        file.write(start)
        for record, weight in zip(records, weights, strict=True):
            file.write(_prefix(_GRAPH_INITIALIZER, len(record) + weight.nbytes) + record)
            file.write(weight.tensor.tobytes())
    return (file.written(),)


def _write_externally(skeleton: onnx.ModelProto, weights: list[_Weight], out: Path) -> tuple[WrittenFile, ...]:
    with _Hashing(out.with_name(out.name + ".data")) as data:
        for weight in weights:
            tensor = skeleton.graph.initializer.add()
            tensor.ParseFromString(weight.header())
            if weight.nbytes < EXTERNAL_MINIMUM:
                tensor.raw_data = weight.tensor.tobytes()
                continue
            data.write(b"\0" * (-data.size % _ALIGNMENT))
            place = {"location": data.path.name, "offset": str(data.size), "length": str(weight.nbytes)}
            tensor.data_location = onnx.TensorProto.EXTERNAL
            for key, value in place.items():
                tensor.external_data.add(key=key, value=value)
            data.write(weight.tensor.tobytes())
    with _Hashing(out) as file:
        file.write(skeleton.SerializeToString(deterministic=True))
    return file.written(), data.written()


def _without_weights(model: ir.Model) -> onnx.ModelProto:
    """Returns the message of the model without its initializers."""
    kept = dict(model.graph.initializers)
    model.graph.initializers.clear()
    try:
        return ir.serde.serialize_model(model)
    finally:
        model.graph.initializers.update(kept)


def _prefix(field: int, length: int) -> bytes:
    """Returns the tag of a length-delimited field, and the length as a base-128 number."""
    return bytes(_varint(field << 3 | _LENGTH_DELIMITED)) + bytes(_varint(length))


def _varint(number: int) -> list[int]:
    digits = []
    while number > 0x7F:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    return [*digits, number]


class _Hashing:
    """A file that knows its SHA-256 when it is closed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._digest = hashlib.sha256()
        self._file: BinaryIO

    def __enter__(self) -> _Hashing:
        self._file = self.path.open("wb")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self.size += len(data)

    def written(self) -> WrittenFile:
        return WrittenFile(self.path, self._digest.hexdigest(), self.size)
