# SPDX-License-Identifier: Apache-2.0
"""``weight.bin``: the blob file that an ML Program keeps its large constants in.

Layout: ``mlmodel/src/MILBlob`` of apple/coremltools. A header of 64 bytes, then for every blob 64 bytes of metadata
that the program points at, and the data that the metadata points at.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from vitedge.errors import UnreadableArtifact

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class ElementType:
    """An element type of MIL."""

    name: str
    bits: int
    storage: np.dtype[Any]
    """What an array of it is in memory; numbers of fewer than eight bits take a byte each."""


def _types(*entries: tuple[int, str, int, Any]) -> dict[int, ElementType]:
    return {code: ElementType(name, bits, np.dtype(storage)) for code, name, bits, storage in entries}


ELEMENT_TYPES: Mapping[int, ElementType] = _types(
    (1, "bool", 8, np.bool_),
    (2, "string", 0, np.str_),
    (10, "float16", 16, np.float16),
    (11, "float32", 32, np.float32),
    (12, "float64", 64, np.float64),
    (13, "bfloat16", 16, ml_dtypes.bfloat16),
    (21, "int8", 8, np.int8),
    (22, "int16", 16, np.int16),
    (23, "int32", 32, np.int32),
    (24, "int64", 64, np.int64),
    (25, "int4", 4, np.int8),
    (31, "uint8", 8, np.uint8),
    (32, "uint16", 16, np.uint16),
    (33, "uint32", 32, np.uint32),
    (34, "uint64", 64, np.uint64),
    (35, "uint4", 4, np.uint8),
    (36, "uint2", 2, np.uint8),
    (37, "uint1", 1, np.uint8),
    (38, "uint6", 6, np.uint8),
    (39, "uint3", 3, np.uint8),
    (40, "float8_e4m3fn", 8, ml_dtypes.float8_e4m3fn),
    (41, "float8_e5m2", 8, ml_dtypes.float8_e5m2),
)
"""``MILSpec.DataType`` to what it means."""

_BLOB_TYPES = {
    1: "float16", 2: "float32", 3: "uint8", 4: "int8", 5: "bfloat16", 6: "int16", 7: "uint16", 8: "int4", 9: "uint1",
    10: "uint2", 11: "uint4", 12: "uint3", 13: "uint6", 14: "int32", 15: "uint32", 16: "float8_e4m3fn",
    17: "float8_e5m2",
}  # fmt: skip
"""``MILBlob::Blob::BlobDataType`` to the name of an element type; no other type is kept in a blob file."""

_SENTINEL = 0xDEADBEEF
_METADATA = struct.Struct("<IIQQ")
"""Sentinel, element type, bytes of data, offset of the data."""


@dataclass(frozen=True)
class Place:
    """Where the data of one blob lie in their file."""

    start: int
    size: int
    """Bytes."""


@dataclass(frozen=True)
class Blobs:
    """One blob file; it stays on disk and is mapped when it is first read."""

    path: Path

    @cached_property
    def mapped(self) -> Array:
        """Its bytes; pages are read when they are touched, and never written back."""
        if not self.path.is_file() or not self.path.stat().st_size:
            return np.zeros(0, np.uint8)
        return np.memmap(self.path, np.uint8, "c")

    def read(self, offset: int, element: ElementType, count: int) -> Array:
        """``count`` elements, flat; a view of the file where they are whole bytes. Arguments and errors as `find`."""
        place = self.find(offset, element, count)
        return unpack(self.mapped[place.start : place.start + place.size], element, count)

    def find(self, offset: int, element: ElementType, count: int) -> Place:
        """Where ``count`` elements lie; none of their pages is touched.

        Args:
            offset: of the metadata.
            element: what the program declares the elements to be.
            count: how many of them.

        Raises:
            UnreadableArtifact: the file does not hold that there.
        """
        metadata = self.mapped[offset : offset + _METADATA.size]
        if metadata.size < _METADATA.size:
            raise UnreadableArtifact(f"{self.path} is damaged: it ends before offset {offset}.")
        sentinel, kind, size, start = _METADATA.unpack(metadata.tobytes())
        if sentinel != _SENTINEL or _BLOB_TYPES.get(kind) != element.name:
            raise UnreadableArtifact(f"{self.path} is damaged: at offset {offset} there is no blob of {element.name}.")
        if size != -(-count * element.bits // 8) or start + size > self.mapped.size:
            raise UnreadableArtifact(
                f"{self.path} is damaged: the blob at offset {offset} does not hold {count} values of {element.name}."
            )
        return Place(start, size)


def unpack(data: Array, element: ElementType, count: int) -> Array:
    """Bytes to elements; those of fewer than eight bits are packed from the lowest bit on."""
    if element.bits >= 8:
        whole: Array = data.view(element.storage)
        return whole
    bits = np.unpackbits(data, bitorder="little")[: count * element.bits].reshape(count, element.bits)
    values: Array = (bits << np.arange(element.bits, dtype=np.uint8)).sum(axis=1, dtype=np.uint8)
    if element.name.startswith("u"):
        return values
    sign = 1 << (element.bits - 1)
    signed: Array = ((values ^ sign).astype(np.int8) - sign).astype(np.int8)
    return signed
