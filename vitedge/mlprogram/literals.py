# SPDX-License-Identifier: Apache-2.0
"""Types and constants of an ML Program: checked when they are read, decoded when they are asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vitedge.errors import UnreadableArtifact
from vitedge.mlprogram.blobs import ELEMENT_TYPES, Array, ElementType, Place, unpack
from vitedge.mlprogram.limits import HIGHEST_RANK, LARGEST_VALUE, LONGEST_NAME, MOST_PARTS
from vitedge.mlprogram.package import Package, quoted

_INTEGERS = frozenset(
    ("int4", "int8", "int16", "int32", "uint1", "uint2", "uint3", "uint4", "uint6", "uint8", "uint16")
)
_FIELDS: Mapping[str, frozenset[str]] = {
    "floats": frozenset(("float32",)),
    "doubles": frozenset(("float64",)),
    "ints": _INTEGERS | {"uint32"},
    "longInts": frozenset(("int64", "uint64")),
    "bools": frozenset(("bool",)),
    "strings": frozenset(("string",)),
    "bytes": _INTEGERS | {"uint32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"},
}
"""Field of ``MILSpec.TensorValue`` to the element types that are kept in it."""


@dataclass(frozen=True)
class ValueType:
    """The declared type of a value."""

    dtype: str
    """Name of an element type; ``list`` or ``dictionary`` for what is no tensor."""
    shape: tuple[int | None, ...] | None
    """None for an edge that is not fixed, and for a shape whose rank is not fixed."""


@dataclass(frozen=True)
class Literal:
    """A constant value: decoded when it is asked for, so that reading a program touches no weights."""

    type: ValueType
    place: Place | None
    """Its location in a blob file; None for one that is in the program itself."""
    _message: Any = field(repr=False)
    """``MILSpec.Value``."""
    _package: Package = field(repr=False)

    @property
    def in_file(self) -> bool:
        """Whether it lies in a blob file."""
        return self.place is not None

    def decode(self) -> Any:
        """Returns an array, a ``str``, a tuple for a list or a tensor of strings, or a ``dict``.

        Raises:
            UnreadableArtifact: a number does not fit its declared type.
        """
        if self.place is None:
            return _decode(self._message, self._package)
        name = self._message.blobFileValue.fileName
        element, shape = _declared(self._message)
        return unpack(self._package.blobs(name).read(self.place), element, math.prod(shape)).reshape(shape)


class Reader:
    """Reads names, types and constants of one program, and refuses those that are malformed or beyond the limits."""

    def __init__(self, package: Package) -> None:
        self.package = package
        self._parts = 0

    def count(self, parts: int) -> None:
        """Counts further parts of the program, before they are read.

        Raises:
            UnreadableArtifact: they are too many.
        """
        self._parts += parts
        if self._parts > MOST_PARTS:
            raise self.refused(f"its program has more than {MOST_PARTS} operations, arguments and types")

    def refused(self, reason: str) -> UnreadableArtifact:
        """Returns the error to raise."""
        return UnreadableArtifact(f"{self.package.path} is damaged: {reason}.")

    def name(self, text: str) -> str:
        """Returns a name that can be shown as it is."""
        if not text.isprintable() or not 0 < len(text) <= LONGEST_NAME:
            raise self.refused(f"it has the name {quoted(text)}")
        return text

    def type(self, message: Any) -> ValueType:
        """Reads a ``MILSpec.ValueType``."""
        kind = message.WhichOneof("type")
        if kind == "tensorType":
            return self._tensor_type(message.tensorType)
        if kind == "stateType":
            raise UnreadableArtifact(
                f"{self.package.path} keeps a state from call to call, which no vision transformer does."
            )
        if kind is None:
            raise self.refused("it has a value without a type")
        return ValueType("dictionary" if kind == "dictionaryType" else "list", None)

    def _tensor_type(self, tensor: Any) -> ValueType:
        rank = len(tensor.dimensions)
        self.count(rank)
        if tensor.dataType not in ELEMENT_TYPES:
            raise self.refused(f"it has values of the element type {tensor.dataType}, which there is not")
        dtype = ELEMENT_TYPES[tensor.dataType].name
        if tensor.rank == -1 and not rank:
            return ValueType(dtype, None)
        if tensor.rank != rank or rank > HIGHEST_RANK:
            raise self.refused(f"it has a value of rank {tensor.rank} with {rank} edges")
        shape = tuple(_edge(dimension) for dimension in tensor.dimensions)
        if math.prod(1 if edge is None else edge for edge in shape) > LARGEST_VALUE:
            raise self.refused(f"it has a value of shape {shape}, which no model has")
        return ValueType(dtype, shape)

    def literal(self, message: Any) -> Literal:
        """Reads a ``MILSpec.Value``, and checks the place and the size of its data."""
        self.count(1)
        declared = self.type(message.type)
        kind = message.WhichOneof("value")
        if kind == "blobFileValue":
            return Literal(declared, self._place(message, declared), message, self.package)
        if kind is None:
            raise self.refused("it has a constant without a value")
        self._check_immediate(message.immediateValue, message, declared)
        return Literal(declared, None, message, self.package)

    def _place(self, message: Any, declared: ValueType) -> Place:
        element, count = self._elements(message, declared)
        place = message.blobFileValue
        return self.package.blobs(place.fileName).find(int(place.offset), element, count)

    def _elements(self, message: Any, declared: ValueType) -> tuple[ElementType, int]:
        if declared.shape is None or None in declared.shape:
            raise self.refused("it has a constant whose shape is not fixed")
        element, shape = _declared(message)
        return element, math.prod(shape)

    def _check_immediate(self, value: Any, message: Any, declared: ValueType) -> None:
        kind = value.WhichOneof("value")
        if kind == "tensor":
            self._check_tensor(value.tensor, *self._elements(message, declared))
        elif kind in ("list", "tuple") and declared.dtype == "list":
            for entry in getattr(value, kind).values:
                self._nested(entry)
        elif kind == "dictionary" and declared.dtype == "dictionary":
            for pair in value.dictionary.values:
                self._nested(pair.value)
                if self._nested(pair.key) not in _KEYS:
                    raise self.refused("it has a dictionary whose keys are neither integers nor strings")
        else:
            raise self.refused(f"it has a {kind or 'nothing'} where it declares a {declared.dtype}")

    def _nested(self, message: Any) -> ValueType:
        literal = self.literal(message)
        if literal.in_file:
            raise self.refused("it has a list of constants in a file of weights")
        return literal.type

    def _check_tensor(self, tensor: Any, element: ElementType, count: int) -> None:
        kind = tensor.WhichOneof("value")
        if kind is None:
            if count:
                raise self.refused(f"it has a constant of {count} values without a value")
            return
        if element.name not in _FIELDS[kind]:
            raise self.refused(f"it has a constant of {element.name} in a list of {kind}")
        found = len(getattr(tensor, kind).values)
        if found != (-(-count * element.bits // 8) if kind == "bytes" else count):
            raise self.refused(f"it has a constant of {found} {kind} where {count} values of {element.name} belong")


_KEYS = (ValueType("string", ()), ValueType("int64", ()), ValueType("int32", ()))


def _edge(dimension: Any) -> int | None:
    return int(dimension.constant.size) if dimension.WhichOneof("dimension") == "constant" else None


def _declared(message: Any) -> tuple[ElementType, tuple[int, ...]]:
    """Returns element type and shape of a tensor that was checked."""
    tensor = message.type.tensorType
    return ELEMENT_TYPES[tensor.dataType], tuple(int(dimension.constant.size) for dimension in tensor.dimensions)


def _decode(message: Any, package: Package) -> Any:
    immediate = message.immediateValue
    kind = immediate.WhichOneof("value")
    if kind == "dictionary":
        return {_key(pair.key, package): _decode(pair.value, package) for pair in immediate.dictionary.values}
    if kind in ("list", "tuple"):
        return tuple(_decode(value, package) for value in getattr(immediate, kind).values)
    element, shape = _declared(message)
    tensor = immediate.tensor
    kind = tensor.WhichOneof("value")
    values = getattr(tensor, kind).values if kind else ()
    if element.name == "string":
        return tuple(values) if shape else next(iter(values))
    if kind == "bytes":  # narrow types come as raw little-endian bytes
        return unpack(np.frombuffer(tensor.bytes.values, np.uint8), element, math.prod(shape)).reshape(shape)
    return _numbers(values, element, package).reshape(shape)


def _key(message: Any, package: Package) -> Any:
    value = _decode(message, package)
    return value if isinstance(value, str) else value.item()


def _numbers(values: Any, element: ElementType, package: Package) -> Array:
    """Returns the numbers of a field of 32 or 64 bits in their declared type."""
    if element.storage.kind not in "iu":
        return np.asarray(values, element.storage)
    wide = np.asarray(values, np.int64)
    lowest = 0 if element.storage.kind == "u" else -(1 << (element.bits - 1))
    beyond = wide.size and (wide.min() < lowest or wide.max() >= lowest + (1 << element.bits))
    # Those of 32 and 64 bits without a sign lie in fields that have one.
    if beyond and element.bits < 32:
        raise UnreadableArtifact(f"{package.path} is damaged: it has a number that is no {element.name}.")
    found: Array = wide.astype(element.storage)
    return found
