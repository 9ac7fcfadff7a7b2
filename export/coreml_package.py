# SPDX-License-Identifier: Apache-2.0
"""A ``.mlpackage`` folder: written with the same bytes for the same content, and read back without Core ML.

Layout and encodings: ``mlmodel/format/*.proto`` and ``mlmodel/src/MILBlob`` of apple/coremltools.
"""

from __future__ import annotations

import json
import shutil
import struct
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vitedge.errors import UnreadableArtifact
from vitedge.export.coreml_quiet import load_coremltools

Array = npt.NDArray[Any]

MODEL = "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"
MANIFEST = "Manifest.json"
_AUTHOR = "com.apple.CoreML"
_ITEMS = {
    f"{_AUTHOR}/model.mlmodel": ("model.mlmodel", "CoreML Model Specification"),
    f"{_AUTHOR}/weights": ("weights", "CoreML Model Weights"),
}
_ROOT = f"{_AUTHOR}/model.mlmodel"

DTYPES = {
    1: "bool",
    2: "str",
    10: "float16",
    11: "float32",
    21: "int8",
    22: "int16",
    23: "int32",
    31: "uint8",
    32: "uint16",
}
"""``MILSpec.DataType`` to NumPy's name, as far as an export of ours uses them."""
_BLOB_DTYPES = {1: "float16", 2: "float32", 3: "uint8", 4: "int8", 6: "int16", 7: "uint16", 14: "int32", 15: "uint32"}
_SENTINEL = 0xDEADBEEF
_ENTRY = struct.Struct("<IIQQ")
"""Sentinel, element type, bytes, offset of the data."""


@dataclass(frozen=True)
class Package:
    """What is in a package."""

    path: Path
    model: Any
    """``CoreML.Specification.Model``."""
    weights: Array
    """Bytes of ``weight.bin``, memory-mapped; empty where there is none."""

    @property
    def function(self) -> Any:
        """``MILSpec.Function`` of the main function."""
        return self.model.mlProgram.functions["main"]

    @property
    def block(self) -> Any:
        """``MILSpec.Block`` of the main function."""
        return self.function.block_specializations[self.function.opset]

    def constants(self) -> Iterator[tuple[str, Array]]:
        """Name and value of every numeric constant."""
        for operation in self.block.operations:
            value = operation.attributes["val"] if operation.type == "const" else None
            if value is None or not value.type.HasField("tensorType"):
                continue
            if DTYPES.get(value.type.tensorType.dataType, "str") not in ("str", "bool"):
                yield operation.outputs[0].name, self._tensor(operation.outputs[0].name, value)

    def _tensor(self, name: str, value: Any) -> Array:
        tensor = value.type.tensorType
        shape = tuple(int(dimension.constant.size) for dimension in tensor.dimensions)
        dtype = np.dtype(DTYPES[tensor.dataType])
        flat = (
            self._blob(name, value.blobFileValue.offset, dtype)
            if value.HasField("blobFileValue")
            else _immediate(value.immediateValue.tensor, dtype)
        )
        if flat.size != int(np.prod(shape)):
            raise UnreadableArtifact(
                f"{self.path} is damaged: constant {name} has {flat.size} values for shape {shape}."
            )
        return flat.reshape(shape)

    def _blob(self, name: str, offset: int, dtype: np.dtype[Any]) -> Array:
        entry = self.weights[offset : offset + _ENTRY.size]
        if entry.size == _ENTRY.size:
            sentinel, kind, size, start = _ENTRY.unpack(entry.tobytes())
            if sentinel == _SENTINEL and _BLOB_DTYPES.get(kind) == dtype.name and start + size <= self.weights.size:
                return self.weights[start : start + size].view(dtype)
        raise UnreadableArtifact(f"{self.path} is damaged: weight.bin does not hold {name} where the model expects it.")


def write_package(path: Path, model: Any, weights: Path) -> None:
    """Writes a package.

    Args:
        path: folder to make; its name does not enter the content.
        model: ``CoreML.Specification.Model``.
        weights: the ``weight.bin`` that the model refers to; it is moved.
    """
    (path / WEIGHTS).parent.mkdir(parents=True)
    (path / MODEL).write_bytes(model.SerializeToString(deterministic=True))
    shutil.move(weights, path / WEIGHTS)
    identifiers = {item: str(uuid.uuid5(uuid.NAMESPACE_URL, item)) for item in _ITEMS}
    manifest = {
        "fileFormatVersion": "1.0.0",
        "itemInfoEntries": {
            identifiers[item]: {"author": _AUTHOR, "description": description, "name": name, "path": item}
            for item, (name, description) in _ITEMS.items()
        },
        "rootModelIdentifier": identifiers[_ROOT],
    }
    (path / MANIFEST).write_text(json.dumps(manifest, indent=4, sort_keys=True) + "\n", encoding="utf-8")


def read_package(path: Path) -> Package:
    """Reads a package; the weights stay on disk.

    Raises:
        UnreadableArtifact: it is not a package of one ML Program.
    """
    _check_manifest(path)
    model = load_coremltools().proto.Model_pb2.Model()
    try:
        model.ParseFromString((path / MODEL).read_bytes())
    except Exception as error:  # protobuf's error class depends on its implementation
        raise UnreadableArtifact(f"{path / MODEL} cannot be read as a Core ML model: {error}.") from error
    if "main" not in model.mlProgram.functions:
        raise UnreadableArtifact(f"{path} holds no ML Program with a function main.")
    weights = path / WEIGHTS
    filled = weights.is_file() and weights.stat().st_size > 0
    return Package(path, model, np.memmap(weights, np.uint8, "r") if filled else np.zeros(0, np.uint8))


def _check_manifest(path: Path) -> None:
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        items = {key: entry["path"] for key, entry in manifest["itemInfoEntries"].items()}
        root = items[manifest["rootModelIdentifier"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnreadableArtifact(f"{path} is not an .mlpackage: its {MANIFEST} cannot be read ({error}).") from error
    missing = [item for item in items.values() if not (path / "Data" / item).exists()]
    if missing or root != _ROOT:
        raise UnreadableArtifact(f"{path} is damaged: it lacks {', '.join(missing) or _ROOT}.")


def _immediate(tensor: Any, dtype: np.dtype[Any]) -> Array:
    field = tensor.WhichOneof("value")
    values = getattr(tensor, field).values
    # Narrow types come as raw little-endian bytes.
    return np.frombuffer(values, dtype) if field == "bytes" else np.asarray(values, dtype)
