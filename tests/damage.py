# SPDX-License-Identifier: Apache-2.0
"""Small faults put into a Core ML package, each the kind of thing that a conversion or a disk gets wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from vitedge.mlprogram.package import MODEL, read_package
from vitedge.mlprogram.program import MLProgram, Named, Operation, read_program

GAIN = 1.01


def flip_bit(path: Path, constant: str, index: int, bit: int) -> None:
    """Flips one bit of one value of a constant that lies in the weight file."""

    def change(values: Any) -> None:
        bits = values.view({2: np.uint16, 4: np.uint32}[values.dtype.itemsize])
        bits[index] ^= bits.dtype.type(1 << bit)

    _change_blob(path, constant, change)


def scale_weight(path: Path, constant: str) -> None:
    """Makes a constant in the weight file larger by 1 %."""

    def change(values: Any) -> None:
        values *= values.dtype.type(GAIN)

    _change_blob(path, constant, change)


def scale_number(path: Path, multiplication: str) -> None:
    """Makes the number larger by 1 % that a multiplication multiplies by."""
    program = _read(path)
    operation = find(program, multiplication)
    names = [argument.name for bound in operation.inputs.values() for argument in bound if isinstance(argument, Named)]

    def change(block: Any) -> None:
        (constant,) = [entry for entry in block.operations if entry.type == "const" and entry.outputs[0].name in names]
        tensor = constant.attributes["val"].immediateValue.tensor
        if tensor.WhichOneof("value") == "floats":
            tensor.floats.values[0] *= GAIN
        else:
            tensor.bytes.values = (np.frombuffer(tensor.bytes.values, np.float16) * np.float16(GAIN)).tobytes()

    _change_program(path, change)


def undo_transpose(path: Path, transpose: str) -> None:
    """Makes a transpose leave the axes as they are; the reshape that follows takes any shape of that size."""
    program = _read(path)
    operation = find(program, transpose)
    permutation, source = (_named(operation, parameter) for parameter in ("perm", "x"))
    (shape,) = [out.type.shape for entry in program.operations for out in entry.outputs if out.name == source]

    def change(block: Any) -> None:
        for entry in block.operations:
            if entry.outputs[0].name == permutation:
                values = entry.attributes["val"].immediateValue.tensor.ints.values
                values[:] = range(len(values))
            if entry.outputs[0].name == transpose:
                for dimension, edge in zip(entry.outputs[0].type.tensorType.dimensions, shape or (), strict=True):
                    dimension.constant.size = edge

    _change_program(path, change)


def approximate_gelu(path: Path, gelu: str) -> None:
    """Puts the tanh approximation in the place of the exact function."""
    mode = _named(find(_read(path), gelu), "mode")

    def change(block: Any) -> None:
        (entry,) = [entry for entry in block.operations if entry.outputs[0].name == mode]
        entry.attributes["val"].immediateValue.tensor.strings.values[0] = "TANH_APPROXIMATION"

    _change_program(path, change)


def find(program: MLProgram, name: str) -> Operation:
    """The operation of that name."""
    return next(operation for operation in program.operations if operation.name == name)


def before(path: Path, weight: str, kind: str) -> str:
    """The nearest operation of a kind before the one that takes a weight, along its data input."""
    program = _read(path)
    operation = next(operation for operation in program.operations if weight in operation.reads())
    while operation.kind != kind:
        operation = find(program, _named(operation, "x"))
    return operation.name


def names(path: Path, kind: str) -> list[str]:
    """The operations of a kind, in order."""
    return [operation.name for operation in _read(path).operations if operation.kind == kind]


def bound(path: Path, operation: str, parameter: str) -> str:
    """Name of what an operation takes."""
    return _named(find(_read(path), operation), parameter)


def constants(path: Path) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every constant in the weight file, by name."""
    return {
        name: tuple(edge or 0 for edge in literal.type.shape or ())
        for name, literal in _read(path).constants()
        if literal.in_file
    }


def _read(path: Path) -> MLProgram:
    return read_program(read_package(path))


def _named(operation: Operation, parameter: str) -> str:
    (argument,) = operation.inputs[parameter]
    assert isinstance(argument, Named)
    return argument.name


def _change_program(path: Path, change: Callable[[Any], None]) -> None:
    model = read_package(path).model
    function = model.mlProgram.functions["main"]
    change(function.block_specializations[function.opset])
    (path / MODEL).write_bytes(model.SerializeToString())


def _change_blob(path: Path, constant: str, change: Callable[[Any], None]) -> None:
    values = dict(_read(path).constants())[constant]
    place = values.place
    assert place is not None
    data = np.fromfile(place.file, np.uint8)
    found = values.decode()
    stored = data[place.start : place.start + found.nbytes].view(found.dtype)
    assert (stored == found.reshape(-1)).all()
    change(stored)
    data.tofile(place.file)
