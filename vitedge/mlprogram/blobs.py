# SPDX-License-Identifier: Apache-2.0
"""``weight.bin``: the blob file that an ML Program keeps its large constants in.

Layout: ``mlmodel/src/MILBlob`` of apple/coremltools. A header of 64 bytes, then for every blob 64 bytes of metadata
that the program points at, and the data.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from vitedge.errors import CheckFailed, UnreadableArtifact
from vitedge.mlprogram.limits import LARGEST_FILE, MOST_BLOBS

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class ElementType:
    """An element type of MIL."""

    name: str
    bits: int
    storage: np.dtype[Any]
    """Dtype of its arrays in memory; numbers of fewer than eight bits take a byte each."""


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
"""``MILSpec.DataType`` to the element type."""

_BLOB_TYPES = {
    1: "float16", 2: "float32", 3: "uint8", 4: "int8", 5: "bfloat16", 6: "int16", 7: "uint16", 8: "int4", 9: "uint1",
    10: "uint2", 11: "uint4", 12: "uint3", 13: "uint6", 14: "int32", 15: "uint32", 16: "float8_e4m3fn",
    17: "float8_e5m2",
}  # fmt: skip
"""``MILBlob::Blob::BlobDataType`` to the name of an element type; no other type is kept in a blob file."""

_SENTINEL = 0xDEADBEEF
_VERSION = 2
_HEADER = struct.Struct("<II")
"""Number of blobs, version of the layout; zeros up to `_ALIGNMENT`."""
_METADATA = struct.Struct("<IIQQQ")
"""Sentinel, element type, bytes of data, offset of the data, unused bits of its last byte; zeros up to `_ALIGNMENT`."""
_ALIGNMENT = 64
"""Header and metadata take as much, and whatever lies in the file begins at a multiple of it."""


@dataclass(frozen=True)
class Place:
    """The location of one constant in a blob file."""

    file: Path
    offset: int
    """Offset of the metadata, bytes."""
    start: int
    """Offset of the data, bytes."""
    size: int
    """Size of the data, bytes."""
    bits: int
    """Bits of the data that the constant takes, from the first on."""


@dataclass(frozen=True)
class _Entry:
    """One blob as its metadata say."""

    kind: int
    start: int
    size: int
    padding: int


@dataclass(frozen=True)
class Blobs:
    """One blob file; it stays on disk and is mapped when it is first read."""

    path: Path

    @cached_property
    def mapped(self) -> Array:
        """The bytes of the file; pages are read when they are touched, and never written back.

        Raises:
            UnreadableArtifact: it cannot be mapped.
        """
        try:
            size = self.path.stat().st_size
            if size > LARGEST_FILE:
                raise self._damaged(f"it has {size} bytes, and no model has weights of more than {LARGEST_FILE}")
            return np.memmap(self.path, np.uint8, "c") if size else np.zeros(0, np.uint8)
        except (OSError, ValueError) as error:
            raise UnreadableArtifact(f"{self.path} cannot be read: {error}.") from error

    @cached_property
    def _entries(self) -> Mapping[int, _Entry]:
        """Offset of the metadata to the blob, in order: they lie one after the other, so that none overlaps."""
        if not self.mapped.size:
            return {}
        if self.mapped.size < _ALIGNMENT:
            raise self._damaged("it ends before its header does")
        count, version = _HEADER.unpack(self.mapped[: _HEADER.size].tobytes())
        if version != _VERSION or count > MOST_BLOBS:
            raise self._damaged(f"its header speaks of {count} blobs in version {version} of the layout")
        found: dict[int, _Entry] = {}
        offset = _ALIGNMENT
        for _ in range(count):
            found[offset] = entry = self._entry(offset)
            offset = _aligned(entry.start + entry.size)
        if self.mapped.size > offset:
            raise self._damaged(f"it goes on after the last of its {count} blobs")
        return found

    def _entry(self, offset: int) -> _Entry:
        metadata = self.mapped[offset : offset + _METADATA.size].tobytes()
        if len(metadata) < _METADATA.size:
            raise self._damaged(f"it ends before offset {offset}, where a blob should be")
        sentinel, kind, size, start, padding = _METADATA.unpack(metadata)
        if sentinel != _SENTINEL or kind not in _BLOB_TYPES:
            raise self._damaged(f"at offset {offset} there is no blob")
        if start != offset + _ALIGNMENT or start + size > self.mapped.size:
            raise self._damaged(f"the blob at offset {offset} says that its {size} bytes lie at {start}")
        return _Entry(kind, start, size, padding)

    def find(self, offset: int, element: ElementType, count: int) -> Place:
        """Returns the location of ``count`` elements; none of their pages is touched.

        Args:
            offset: of the metadata.
            element: their type, as the program declares it.
            count: their number.

        Raises:
            UnreadableArtifact: the file does not hold that there.
        """
        entry = self._entries.get(offset)
        if entry is None:
            raise self._damaged(f"the program looks for a constant at offset {offset}, where there is none")
        if _BLOB_TYPES[entry.kind] != element.name or entry.size != -(-count * element.bits // 8):
            raise self._damaged(f"the blob at offset {offset} does not hold {count} values of {element.name}")
        return Place(self.path, offset, entry.start, entry.size, count * element.bits)

    def read(self, place: Place) -> Array:
        """Returns the bytes of a constant: a view of the file."""
        return self.mapped[place.start : place.start + place.size]

    def check_unused(self, places: Collection[Place]) -> None:
        """Checks the bytes of no constant: reserved fields, gaps between the blobs, blobs that nothing reads.

        Args:
            places: of all the constants that the programs of the package read from this file.

        Raises:
            CheckFailed: a byte is not zero, or there is a blob too many.
            UnreadableArtifact: the file is not well formed.
        """
        bits = {place.offset: place.bits for place in places}
        entries = self._entries
        unread = [offset for offset in entries if offset not in bits]
        if unread:
            raise CheckFailed(f"{self.path} holds {len(unread)} blobs that no constant refers to, one at {unread[0]}")
        self._check_zero(_HEADER.size, _ALIGNMENT, "the header")
        for offset, entry in entries.items():
            end = entry.start + entry.size
            unused = entry.size * 8 - bits[offset]
            last = int(self.mapped[end - 1]) if unused else 0
            if entry.padding != unused or last >> (8 - unused):
                raise CheckFailed(f"the blob at offset {offset} of {self.path} has other than {unused} unused bits")
            self._check_zero(offset + _METADATA.size, entry.start, f"the metadata at offset {offset}")
            self._check_zero(end, _aligned(end), f"the blob at offset {offset}")

    def _check_zero(self, start: int, end: int, where: str) -> None:
        if self.mapped[start:end].any():
            raise CheckFailed(f"{self.path} has stray bytes after {where}")

    def _damaged(self, reason: str) -> UnreadableArtifact:
        return UnreadableArtifact(f"{self.path} is damaged: {reason}.")


def _aligned(offset: int) -> int:
    return -(-offset // _ALIGNMENT) * _ALIGNMENT


def unpack(data: Array, element: ElementType, count: int) -> Array:
    """Returns bytes as elements, flat; those of fewer than eight bits are packed from the lowest bit on.

    Whole bytes are not copied.
    """
    if element.bits >= 8:
        whole: Array = data.view(element.storage)
        return whole
    # The fewest bytes that hold a whole number of elements: one, or three for elements of three or six bits.
    group = math.lcm(element.bits, 8) // 8
    fitted = np.zeros((-(-data.size // group), group), np.uint8)
    fitted.reshape(-1)[: data.size] = data
    values = np.empty((len(fitted), group * 8 // element.bits), np.uint8)
    for index in range(values.shape[1]):
        byte, shift = divmod(index * element.bits, 8)
        values[:, index] = fitted[:, byte] >> shift
        if shift + element.bits > 8:
            values[:, index] |= fitted[:, byte + 1] << (8 - shift)
    values &= (1 << element.bits) - 1
    flat: Array = values.reshape(-1)[:count]
    if element.name.startswith("u"):
        return flat
    sign = np.uint8(1 << (element.bits - 1))
    flat ^= sign
    flat -= sign
    return flat.view(np.int8)
