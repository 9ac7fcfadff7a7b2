# SPDX-License-Identifier: Apache-2.0
"""An ML Program as data: operations in order, each with its constants, its inputs by name and its typed outputs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vitedge.errors import UnreadableArtifact
from vitedge.mlprogram.blobs import ELEMENT_TYPES
from vitedge.mlprogram.description import check_interface
from vitedge.mlprogram.limits import LARGEST_MEMORY
from vitedge.mlprogram.literals import Literal, Reader, ValueType
from vitedge.mlprogram.package import Package, quoted

__all__ = ["Argument", "Literal", "MLProgram", "Named", "Operation", "Output", "ValueType", "read_program"]


@dataclass(frozen=True)
class Named:
    """Refers to a value by its name."""

    name: str


@dataclass(frozen=True)
class Output:
    """A value that an operation returns, or an input of the program."""

    name: str
    type: ValueType


Argument = Named | Literal


@dataclass(frozen=True)
class Operation:
    """One operation."""

    kind: str
    """MIL's name of it, such as ``linear``."""
    inputs: Mapping[str, tuple[Argument, ...]]
    """Parameter to its arguments: one, or several where the operation takes a list."""
    attributes: Mapping[str, Literal]
    """Constants that are no inputs: the value of a ``const``, the parameters of the older compressed constants."""
    outputs: tuple[Output, ...]

    @property
    def is_constant(self) -> bool:
        """Whether its result is known before the program runs: a constant, plain or compressed."""
        return self.kind == "const" or self.kind.startswith("constexpr_")

    @property
    def name(self) -> str:
        """Name of the first value that it returns."""
        return self.outputs[0].name if self.outputs else ""

    def reads(self) -> Iterator[str]:
        """Yields the names of the values that it takes."""
        for arguments in self.inputs.values():
            for argument in arguments:
                if isinstance(argument, Named):
                    yield argument.name

    def literals(self) -> Iterator[Literal]:
        """Yields the constants that it holds itself."""
        yield from self.attributes.values()
        for arguments in self.inputs.values():
            yield from (argument for argument in arguments if isinstance(argument, Literal))


@dataclass(frozen=True)
class MLProgram:
    """One function of an ML Program."""

    package: Package
    opset: str
    """``CoreML5`` (iOS15) to ``CoreML9`` (iOS26)."""
    inputs: tuple[Output, ...]
    operations: tuple[Operation, ...]
    outputs: tuple[str, ...]

    def constants(self) -> Iterator[tuple[str, Literal]]:
        """Yields name and value of every ``const``."""
        for operation in self.operations:
            if operation.kind == "const":
                yield operation.name, operation.attributes["val"]

    def literals(self) -> Iterator[Literal]:
        """Yields every constant, those without a name included."""
        for operation in self.operations:
            yield from operation.literals()


def read_program(package: Package, function: str = "") -> MLProgram:
    """Reads a function of a package in the operation set that it declares; by default the one that runs.

    Nothing is computed and no weight is touched, but every constant is where the program says and as large.

    Raises:
        UnreadableArtifact: it is not well formed: a value is not computed before it is read, two have one name, a type
            does not exist, a constant is not there, or there are more or larger values than any model has.
    """
    name = function or package.default_function
    if name not in package.functions:
        raise UnreadableArtifact(f"{package.path} has no function {quoted(name)}.")
    message = package.model.mlProgram.functions[name]
    reader = Reader(package)
    if message.opset not in message.block_specializations:
        raise reader.refused(f"it has no program for its operation set {quoted(message.opset)}")
    block = message.block_specializations[message.opset]
    inputs = tuple(_output(entry, reader) for entry in message.inputs)
    operations = tuple(_operation(entry, reader) for entry in block.operations)
    program = MLProgram(package, reader.name(message.opset), inputs, operations, tuple(block.outputs))
    _check_order(program, reader)
    if name == package.default_function:
        check_interface(reader, {entry.name: entry.type for entry in inputs})
    peak = peak_memory(program)
    if peak > LARGEST_MEMORY:
        raise UnreadableArtifact(
            f"{package.path} holds values of {peak >> 20} MiB at one time, and vitedge computes with "
            f"{LARGEST_MEMORY >> 20} MiB at most."
        )
    return program


def peak_memory(program: MLProgram) -> int:
    """Bytes that the values alive at one time take, as they are declared; an edge that is not fixed counts as one.

    The inputs are alive all the time. Narrow floating-point numbers count as float32, in which they are computed;
    constants count where they do not stay in their file: decompressed, or widened because PyTorch has no such type.
    """
    last = {name: index for index, operation in enumerate(program.operations) for name in operation.reads()}
    last.update(dict.fromkeys(program.outputs, len(program.operations)))
    ends: dict[int, int] = {}
    alive = peak = sum(_bytes(entry.type) for entry in program.inputs)
    for index, operation in enumerate(program.operations):
        for output in operation.outputs:
            if operation.kind == "const" and output.type.dtype in _STAY_IN_FILE:
                continue
            size = _bytes(output.type)
            alive += size
            end = len(program.operations) if operation.is_constant else last.get(output.name, index)
            ends[end] = ends.get(end, 0) + size
        peak = max(peak, alive)
        alive -= ends.pop(index, 0)
    return peak


_BYTES = {
    element.name: max(4 if element.storage.kind in "fV" else 1, element.storage.itemsize)
    * (2 if element.name in ("uint16", "uint32") else 1)
    for element in ELEMENT_TYPES.values()
}
"""Name of an element type to the bytes of an element in memory."""
_STAY_IN_FILE = frozenset(
    element.name
    for element in ELEMENT_TYPES.values()
    if element.bits >= 8 and element.name not in ("uint16", "uint32", "uint64")
)


def _bytes(declared: ValueType) -> int:
    shape = declared.shape or ()
    return math.prod(1 if edge is None else edge for edge in shape) * _BYTES.get(declared.dtype, 1)


def _operation(message: Any, reader: Reader) -> Operation:
    kind = reader.name(message.type)
    if message.blocks:
        raise UnreadableArtifact(f"{reader.package.path} branches or loops ({kind}), which no export of a model does.")
    reader.count(1 + len(message.inputs))
    inputs = {reader.name(name): _arguments(argument, reader) for name, argument in message.inputs.items()}
    attributes = {
        reader.name(parameter): reader.literal(value)
        for parameter, value in message.attributes.items()
        if parameter != "name"
    }
    outputs = tuple(_output(entry, reader) for entry in message.outputs)
    if kind == "const" and [output.type for output in outputs] != [
        value.type for parameter, value in attributes.items() if parameter == "val"
    ]:
        raise reader.refused("it has a constant without a value of the declared type")
    if not outputs:
        raise reader.refused(f"it has an operation {kind} that makes nothing")
    return Operation(kind, inputs, attributes, outputs)


def _arguments(message: Any, reader: Reader) -> tuple[Argument, ...]:
    if not message.arguments:
        raise reader.refused("it has a parameter that nothing is bound to")
    reader.count(len(message.arguments))
    return tuple(
        reader.literal(binding.value) if binding.WhichOneof("binding") == "value" else Named(reader.name(binding.name))
        for binding in message.arguments
    )


def _output(message: Any, reader: Reader) -> Output:
    reader.count(1)
    return Output(reader.name(message.name), reader.type(message.type))


def _check_order(program: MLProgram, reader: Reader) -> None:
    """Checks that every value is computed once, before it is read: nothing is missing, and there is no circle."""
    known = {entry.name for entry in program.inputs}
    if len(known) < len(program.inputs):
        raise reader.refused("two of its inputs have one name")
    for operation in program.operations:
        for name in operation.reads():
            if name not in known:
                raise reader.refused(f"{operation.kind} {operation.name} reads {name}, which nothing before it makes")
        for output in operation.outputs:
            if output.name in known:
                raise reader.refused(f"two operations make {output.name}")
            known.add(output.name)
    missing = [name for name in program.outputs if name not in known]
    if missing or not program.outputs:
        raise reader.refused(f"nothing makes its output {quoted(missing[0]) if missing else ''}".rstrip())
