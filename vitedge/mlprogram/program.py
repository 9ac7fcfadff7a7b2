# SPDX-License-Identifier: Apache-2.0
"""An ML Program as data: operations in order, each with its constants, its inputs by name and its typed outputs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vitedge.errors import UnreadableArtifact
from vitedge.mlprogram.blobs import ELEMENT_TYPES, Array, ElementType, Place, unpack
from vitedge.mlprogram.package import Package


@dataclass(frozen=True)
class ValueType:
    """The declared type of a value."""

    dtype: str
    """Name of an element type; ``list`` or ``dictionary`` for what is no tensor."""
    shape: tuple[int | None, ...] | None
    """None for an edge that is not fixed, and for a shape of which not even the rank is."""


@dataclass(frozen=True)
class Named:
    """Refers to a value by its name."""

    name: str


@dataclass(frozen=True)
class Output:
    """A value that an operation makes, or an input of the program."""

    name: str
    type: ValueType


@dataclass(frozen=True)
class Literal:
    """A constant value: decoded when it is asked for, so that reading a program touches no weights."""

    type: ValueType
    _message: Any = field(repr=False)
    """``MILSpec.Value``."""
    _package: Package = field(repr=False)

    @property
    def in_file(self) -> bool:
        """Whether it lies in a blob file."""
        return bool(self._message.HasField("blobFileValue"))

    @property
    def place(self) -> Place | None:
        """Where in a blob file it lies; None for one that is in the program itself.

        Raises:
            UnreadableArtifact: it is not there.
        """
        if not self.in_file:
            return None
        element, count, _ = _declared(self._message, self._package)
        value = self._message.blobFileValue
        return self._package.blobs(value.fileName).find(int(value.offset), element, count)

    def decode(self) -> Any:
        """An array, a ``str``, a tuple for a list, or a ``dict``.

        Raises:
            UnreadableArtifact: it does not have the declared type and shape.
        """
        return _decode(self._message, self._package)


Argument = Named | Literal


@dataclass(frozen=True)
class Operation:
    """One operation."""

    kind: str
    """MIL's name of it, such as ``linear``."""
    inputs: Mapping[str, tuple[Argument, ...]]
    """Parameter to what is bound to it: one argument, or several where the operation takes a list."""
    attributes: Mapping[str, Literal]
    """Constants that are no inputs: the value of a ``const``, the parameters of the older compressed constants."""
    outputs: tuple[Output, ...]

    @property
    def name(self) -> str:
        """Name of the first value that it makes."""
        return self.outputs[0].name if self.outputs else ""

    def reads(self) -> Iterator[str]:
        """Names of the values that it takes."""
        for arguments in self.inputs.values():
            for argument in arguments:
                if isinstance(argument, Named):
                    yield argument.name


@dataclass(frozen=True)
class Program:
    """One function of an ML Program."""

    package: Package
    opset: str
    """``CoreML5`` (iOS15) to ``CoreML9`` (iOS26)."""
    inputs: tuple[Output, ...]
    operations: tuple[Operation, ...]
    outputs: tuple[str, ...]

    def constants(self) -> Iterator[tuple[str, Literal]]:
        """Name and value of every ``const``."""
        for operation in self.operations:
            if operation.kind == "const":
                yield operation.name, operation.attributes["val"]


def read_program(package: Package, function: str = "main") -> Program:
    """Reads a function of a package in the operation set that it declares.

    Raises:
        UnreadableArtifact: it is not well formed: a value without a maker before its reader, two of one name, a type
            that does not exist.
    """
    message = package.model.mlProgram.functions[function]
    if message.opset not in message.block_specializations:
        raise UnreadableArtifact(f"{package.path} is damaged: it has no program for its operation set {message.opset}.")
    block = message.block_specializations[message.opset]
    inputs = tuple(Output(entry.name, _type(entry.type, package)) for entry in message.inputs)
    operations = tuple(_operation(entry, package) for entry in block.operations)
    program = Program(package, message.opset, inputs, operations, tuple(block.outputs))
    _check_order(program)
    return program


def _operation(message: Any, package: Package) -> Operation:
    if message.blocks:
        raise UnreadableArtifact(f"{package.path} branches or loops ({message.type}), which no export of a model does.")
    inputs = {
        name: tuple(_argument(binding, package) for binding in argument.arguments)
        for name, argument in message.inputs.items()
    }
    attributes = {
        name: Literal(_type(value.type, package), value, package)
        for name, value in message.attributes.items()
        if name != "name"
    }
    outputs = tuple(Output(entry.name, _type(entry.type, package)) for entry in message.outputs)
    if message.type == "const" and (len(outputs) != 1 or "val" not in attributes):
        raise UnreadableArtifact(f"{package.path} is damaged: a constant has no value.")
    return Operation(message.type, inputs, attributes, outputs)


def _argument(binding: Any, package: Package) -> Argument:
    if binding.WhichOneof("binding") == "value":
        return Literal(_type(binding.value.type, package), binding.value, package)
    return Named(binding.name)


def _check_order(program: Program) -> None:
    """Every value is made once, before it is read: then nothing is missing and nothing runs in a circle."""
    path = program.package.path
    known = {entry.name for entry in program.inputs}
    for operation in program.operations:
        for name in operation.reads():
            if name not in known:
                raise UnreadableArtifact(
                    f"{path} is damaged: {operation.kind} {operation.name} reads {name}, which nothing before it makes."
                )
        for output in operation.outputs:
            if output.name in known:
                raise UnreadableArtifact(f"{path} is damaged: two operations make {output.name}.")
            known.add(output.name)
    missing = [name for name in program.outputs if name not in known]
    if missing:
        raise UnreadableArtifact(f"{path} is damaged: nothing makes its output {', '.join(missing)}.")


def _type(message: Any, package: Package) -> ValueType:
    kind = message.WhichOneof("type")
    if kind == "tensorType":
        tensor = message.tensorType
        element = _element(tensor.dataType, package)
        if tensor.rank < 0:
            return ValueType(element.name, None)
        return ValueType(element.name, tuple(_edge(dimension) for dimension in tensor.dimensions))
    if kind == "stateType":
        return _type(message.stateType.wrappedType, package)
    return ValueType({"listType": "list", "tupleType": "list"}.get(kind, "dictionary"), None)


def _edge(dimension: Any) -> int | None:
    return int(dimension.constant.size) if dimension.WhichOneof("dimension") == "constant" else None


def _element(code: int, package: Package) -> ElementType:
    try:
        return ELEMENT_TYPES[code]
    except KeyError:
        raise UnreadableArtifact(f"{package.path} has values of the element type {code}, which is unknown.") from None


def _decode(message: Any, package: Package) -> Any:
    if message.WhichOneof("value") == "blobFileValue":
        return _tensor(message, package)
    immediate = message.immediateValue
    kind = immediate.WhichOneof("value")
    if kind == "dictionary":
        return {_decode(pair.key, package): _decode(pair.value, package) for pair in immediate.dictionary.values}
    if kind in ("list", "tuple"):
        return tuple(_decode(value, package) for value in getattr(immediate, kind).values)
    return _tensor(message, package)


def _tensor(message: Any, package: Package) -> Array | str:
    element, count, shape = _declared(message, package)
    if message.WhichOneof("value") == "blobFileValue":
        place = message.blobFileValue
        return package.blobs(place.fileName).read(int(place.offset), element, count).reshape(shape)
    values = _immediate(message.immediateValue.tensor, element, count)
    if values.size != count:
        raise UnreadableArtifact(f"{package.path} is damaged: a constant of shape {shape} has {values.size} values.")
    return str(values[0]) if element.name == "string" and not shape else values.reshape(shape)


def _declared(message: Any, package: Package) -> tuple[ElementType, int, tuple[int, ...]]:
    """Element type, number of elements and shape of a constant."""
    tensor = message.type.tensorType
    shape = tuple(_edge(dimension) or 0 for dimension in tensor.dimensions)
    return _element(tensor.dataType, package), math.prod(shape), shape


def _immediate(tensor: Any, element: ElementType, count: int) -> Array:
    field_name = tensor.WhichOneof("value")
    if field_name is None:
        return np.zeros(0, element.storage)
    values = getattr(tensor, field_name).values
    if field_name == "bytes":  # narrow types come as raw little-endian bytes
        return unpack(np.frombuffer(values, np.uint8), element, count)
    return np.asarray(values, element.storage)
