# SPDX-License-Identifier: Apache-2.0
"""A package of one ``linear``, of which every part can be made wrong. Imports no coremltools."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vitedge import registry
from vitedge.export.coreml.package import write_package

WEIGHT = np.arange(12, dtype=np.float32).reshape(3, 4)
BIAS = np.array([0.5, -1.0, 2.0], np.float32)
FLOAT32, FLOAT16, INT32, STRING = 11, 10, 23, 2
WEIGHT_FILE = "@model_path/weights/weight.bin"


def proto(name: str) -> Any:
    """One of coremltools' generated modules, such as ``MIL``."""
    return registry.generated("coremltools", "proto", f"{name}_pb2")


def blob_file(entries: Sequence[tuple[int, bytes]], **header: int) -> bytes:
    """A ``weight.bin`` of element types with their bytes."""
    parts = [struct.pack("<II", header.get("count", len(entries)), header.get("version", 2)).ljust(64, b"\0")]
    for kind, data in entries:
        offset = sum(map(len, parts))
        parts.append(struct.pack("<IIQQ", 0xDEADBEEF, kind, len(data), offset + 64).ljust(64, b"\0"))
        parts.append(data + b"\0" * (-len(data) % 64))
    return b"".join(parts)[: sum(map(len, parts)) - (-len(entries[-1][1]) % 64 if entries else 0)]


def tensor_type(message: Any, dtype: int, shape: Sequence[int | None]) -> None:
    """Declares a ``MILSpec.ValueType``."""
    tensor = message.tensorType
    tensor.dataType, tensor.rank = dtype, len(shape)
    for edge in shape:
        dimension = tensor.dimensions.add()
        if edge is None:
            dimension.unknown.variadic = False
        else:
            dimension.constant.size = edge


def in_file(offset: int = 64, shape: Sequence[int] = (3, 4), dtype: int = FLOAT32, name: str = WEIGHT_FILE) -> Any:
    """A ``MILSpec.Value`` that lies in a blob file."""
    value = proto("MIL").Value()
    tensor_type(value.type, dtype, shape)
    value.blobFileValue.fileName, value.blobFileValue.offset = name, offset
    return value


def immediate(field: str, values: Any, dtype: int, shape: Sequence[int]) -> Any:
    """A ``MILSpec.Value`` that lies in the program."""
    value = proto("MIL").Value()
    tensor_type(value.type, dtype, shape)
    target = getattr(value.immediateValue.tensor, field)
    target.SetInParent()
    if field == "bytes":
        target.values = values
    else:
        target.values.extend(values)
    return value


def operation(
    block: Any,
    kind: str,
    name: str,
    shape: Sequence[int | None],
    dtype: int = FLOAT32,
    *,
    value: Any = None,
    **inputs: str,
) -> Any:
    """Appends an operation that makes one tensor."""
    message = block.operations.add(type=kind)
    for parameter, source in inputs.items():
        message.inputs[parameter].arguments.add().name = source
    if value is not None:
        message.attributes["val"].CopyFrom(value)
    output = message.outputs.add(name=name)
    tensor_type(output.type, dtype, shape)
    return message


def constant(block: Any, name: str, value: Any) -> Any:
    """Appends a ``const``."""
    message = block.operations.add(type="const")
    message.attributes["val"].CopyFrom(value)
    output = message.outputs.add(name=name)
    output.type.CopyFrom(value.type)
    return message


def block_of(model: Any) -> Any:
    """Returns the block that holds the operations."""
    return model.mlProgram.functions["main"].block_specializations["CoreML6"]


def model() -> Any:
    """``y = linear(x, w, b)`` of ``x`` float32 (1, 4)."""
    message = proto("Model").Model(specificationVersion=7)
    for name, shape, features in (("x", (1, 4), message.description.input), ("y", (1, 3), message.description.output)):
        feature = features.add(name=name)
        feature.type.multiArrayType.dataType = 65568
        feature.type.multiArrayType.shape.extend(shape)
    function = message.mlProgram.functions["main"]
    function.opset = "CoreML6"
    tensor_type(function.inputs.add(name="x").type, FLOAT32, (1, 4))
    block = function.block_specializations["CoreML6"]
    constant(block, "w", in_file())
    constant(block, "b", immediate("floats", BIAS.tolist(), FLOAT32, (3,)))
    operation(block, "linear", "y", (1, 3), x="x", weight="w", bias="b")
    block.outputs.append("y")
    return message


def write(
    folder: Path,
    alter: Callable[[Any], object] = lambda message: None,
    weights: bytes | None = None,
    files: Mapping[str, bytes] | None = None,
) -> Path:
    """Writes the package, its model altered, some of its files replaced."""
    message = model()
    alter(message)
    content = blob_file([(2, WEIGHT.tobytes())]) if weights is None else weights
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weight.bin").write_bytes(content)
    path = folder / "model.mlpackage"
    write_package(path, message, folder / "weight.bin")
    for name, replaced in (files or {}).items():
        (path / name).write_bytes(replaced)
    return path
