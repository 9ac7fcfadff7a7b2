# SPDX-License-Identifier: Apache-2.0
"""Tests of `program` and of the `literals` in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.vitedge.mlprogram import handmade
from tests.vitedge.mlprogram.handmade import FLOAT32, INT32, STRING, WEIGHT_FILE, block_of, constant, immediate, in_file
from vitedge.errors import UnreadableArtifact
from vitedge.mlprogram.package import WEIGHTS, read_package
from vitedge.mlprogram.program import Literal, MLProgram, Named, ValueType, peak_memory, read_program


def read(folder: Path, alter: Callable[[Any], object] = lambda message: None) -> MLProgram:
    return read_program(read_package(handmade.write(folder, alter)))


def decoded(folder: Path, value: Any) -> Any:
    """The value of a constant that was added to the program."""
    return dict(read(folder, lambda model: constant(block_of(model), "added", value)).constants())["added"].decode()


def test_a_program_is_operations_in_order(tmp_path: Path) -> None:
    program = read(tmp_path)
    assert program.opset == "CoreML6"
    assert [(entry.name, entry.type) for entry in program.inputs] == [("x", ValueType("float32", (1, 4)))]
    assert [operation.kind for operation in program.operations] == ["const", "const", "linear"]
    assert program.outputs == ("y",)
    linear = program.operations[-1]
    assert linear.name == "y"
    assert linear.inputs == {"x": (Named("x"),), "weight": (Named("w"),), "bias": (Named("b"),)}
    assert sorted(linear.reads()) == ["b", "w", "x"]
    assert [operation.is_constant for operation in program.operations] == [True, True, False]


def test_a_constant_says_where_it_lies(tmp_path: Path) -> None:
    program = read(tmp_path)
    constants = dict(program.constants())
    place = constants["w"].place
    assert place is not None
    assert (place.file, place.offset, place.start, place.size) == (
        (program.package.path / WEIGHTS).resolve(),
        64,
        128,
        48,
    )
    assert constants["w"].in_file
    assert not constants["b"].in_file
    np.testing.assert_array_equal(constants["w"].decode(), handmade.WEIGHT)
    np.testing.assert_array_equal(constants["b"].decode(), handmade.BIAS)
    assert len(list(program.literals())) == 2


F8 = np.array([0.5, -2, 8], ml_dtypes.float8_e4m3fn)
IMMEDIATE: list[tuple[str, Any, int, str, list[float]]] = [
    ("floats", [0.5, -2.0, 3e38], 11, "float32", [0.5, -2.0, np.float32(3e38)]),
    ("doubles", [0.1, 1e300, 0.0], 12, "float64", [0.1, 1e300, 0.0]),
    ("bools", [True, False, True], 1, "bool", [1, 0, 1]),
    ("ints", [1, -(2**31), 2**31 - 1], 23, "int32", [1, -(2**31), 2**31 - 1]),
    ("ints", [-32768, 0, 32767], 22, "int16", [-32768, 0, 32767]),
    ("ints", [65535, 0, 1], 32, "uint16", [65535, 0, 1]),
    ("ints", [-1, 0, 1], 33, "uint32", [2**32 - 1, 0, 1]),
    ("ints", [-8, 0, 7], 25, "int4", [-8, 0, 7]),
    ("longInts", [2**62, -1, 0], 24, "int64", [2**62, -1, 0]),
    ("longInts", [-1, 2**62, 0], 34, "uint64", [2**64 - 1, 2**62, 0]),
    ("bytes", np.array([0.5, -2, 65504], np.float16).tobytes(), 10, "float16", [0.5, -2, 65504]),
    ("bytes", np.array([0.5, -2, 8], ml_dtypes.bfloat16).tobytes(), 13, "bfloat16", [0.5, -2, 8]),
    ("bytes", F8.tobytes(), 40, "float8_e4m3fn", [0.5, -2, 8]),
    ("bytes", F8.astype(ml_dtypes.float8_e5m2).tobytes(), 41, "float8_e5m2", [0.5, -2, 8]),
    ("bytes", bytes((255, 0, 128)), 21, "int8", [-1, 0, -128]),
    ("bytes", bytes((255, 0, 128)), 31, "uint8", [255, 0, 128]),
    ("bytes", bytes((0xF1, 0x08)), 25, "int4", [1, -1, -8]),
    ("bytes", bytes((0xF1, 0x08)), 35, "uint4", [1, 15, 8]),
    ("bytes", bytes((0b011001,)), 36, "uint2", [1, 2, 1]),
    ("bytes", bytes((0b101,)), 37, "uint1", [1, 0, 1]),
    ("bytes", bytes((0xC1, 0x0F, 0x02)), 38, "uint6", [1, 63, 32]),
    ("bytes", bytes((0xD1, 0x01)), 39, "uint3", [1, 2, 7]),
]


@pytest.mark.parametrize(("field", "values", "code", "dtype", "expected"), IMMEDIATE)
def test_every_type_of_immediate_value(
    tmp_path: Path, field: str, values: Any, code: int, dtype: str, expected: list[float]
) -> None:
    program = read(tmp_path, lambda model: constant(block_of(model), "k", immediate(field, values, code, (3, 1))))
    literal = dict(program.constants())["k"]
    assert literal.type == ValueType(dtype, (3, 1))
    found = literal.decode()
    assert found.shape == (3, 1)
    assert found.reshape(-1).astype(np.float64).tolist() == [float(value) for value in expected]


def test_strings_are_text(tmp_path: Path) -> None:
    assert decoded(tmp_path / "a", immediate("strings", ["valid"], STRING, ())) == "valid"
    assert decoded(tmp_path / "b", immediate("strings", ["a\0", "b"], STRING, (2,))) == ("a\0", "b")


def test_empty_values(tmp_path: Path) -> None:
    value = handmade.proto("MIL").Value()
    handmade.tensor_type(value.type, INT32, (0,))
    value.immediateValue.tensor.SetInParent()
    assert decoded(tmp_path / "a", value).shape == (0,)
    assert decoded(tmp_path / "b", immediate("ints", [], INT32, (2, 0))).shape == (2, 0)


def test_lists_and_dictionaries(tmp_path: Path) -> None:
    value = handmade.proto("MIL").Value()
    value.type.listType.SetInParent()
    for label in ("cat", "dog"):
        value.immediateValue.list.values.add().CopyFrom(immediate("strings", [label], STRING, ()))
    assert decoded(tmp_path / "list", value) == ("cat", "dog")
    value = handmade.proto("MIL").Value()
    value.type.dictionaryType.SetInParent()
    pair = value.immediateValue.dictionary.values.add()
    pair.key.CopyFrom(immediate("longInts", [7], 24, ()))
    pair.value.CopyFrom(immediate("strings", ["seven"], STRING, ()))
    assert decoded(tmp_path / "dictionary", value) == {7: "seven"}


def test_an_argument_can_be_a_constant_of_its_own(tmp_path: Path) -> None:
    def alter(model: Any) -> None:
        (binding,) = block_of(model).operations[2].inputs["weight"].arguments
        binding.value.CopyFrom(in_file())

    program = read(tmp_path, alter)
    (literal,) = program.operations[-1].inputs["weight"]
    assert isinstance(literal, Literal)
    np.testing.assert_array_equal(literal.decode(), handmade.WEIGHT)
    assert len(list(program.literals())) == 3


def test_a_number_beyond_its_type_is_refused_when_it_is_decoded(tmp_path: Path) -> None:
    for code, number in ((21, 128), (31, -1), (35, 16), (25, -9)):
        with pytest.raises(UnreadableArtifact, match=r"it has a number that is no u?int[48]"):
            decoded(tmp_path / str(code), immediate("ints", [number], code, (1,)))


def second_function(model: Any) -> None:
    function = model.mlProgram.functions["other"]
    function.CopyFrom(model.mlProgram.functions["main"])
    function.block_specializations["CoreML6"].operations[1].outputs[0].name = "c"
    function.block_specializations["CoreML6"].operations[2].inputs["bias"].arguments[0].name = "c"
    for name in ("main", "other"):
        described = model.description.functions.add(name=name)
        described.input.extend(model.description.input)
        described.output.extend(model.description.output)
    del model.description.input[:], model.description.output[:]
    model.description.defaultFunctionName = "other"


def test_of_several_functions_the_default_one_is_read_unless_another_is_asked_for(tmp_path: Path) -> None:
    package = read_package(handmade.write(tmp_path, second_function))
    assert package.functions == ("main", "other")
    assert "c" in dict(read_program(package).constants())
    assert "b" in dict(read_program(package, "main").constants())
    with pytest.raises(UnreadableArtifact, match="has no function 'third'"):
        read_program(package, "third")


def test_of_several_specializations_the_one_of_the_operation_set_is_read(tmp_path: Path) -> None:
    def alter(model: Any) -> None:
        function = model.mlProgram.functions["main"]
        function.block_specializations["CoreML8"].CopyFrom(function.block_specializations["CoreML6"])
        del function.block_specializations["CoreML6"].operations[:]
        function.opset = "CoreML8"

    assert len(read(tmp_path, alter).operations) == 3


def test_the_memory_of_a_program_is_that_of_the_values_alive_at_one_time(tmp_path: Path) -> None:
    def alter(model: Any) -> None:
        block = block_of(model)
        constant(block, "half", immediate("bytes", bytes(6), 10, (3,)))
        constant(block, "wide", immediate("ints", [1, 2], 32, (2,)))
        handmade.operation(block, "relu", "z", (1, 3), x="y")
        handmade.operation(block, "relu", "halves", (1, 3), 10, x="z")
        handmade.operation(block, "relu", "last", (1, 3), x="halves")
        block.outputs[0] = "last"

    # The caller keeps x, of 16 bytes; y and z, and z and halves, are alive together; uint16 is widened to 4 bytes.
    assert peak_memory(read(tmp_path / "linear")) == 16 + 12
    assert peak_memory(read(tmp_path / "chain", alter)) == 16 + (12 + 12) + 2 * 4


def test_a_blob_file_may_have_another_name(tmp_path: Path) -> None:
    path = handmade.write(tmp_path)
    (path / WEIGHTS).rename((path / WEIGHTS).with_name("other.bin"))
    package = read_package(path)
    with pytest.raises(UnreadableArtifact, match=r"its weights are said to be in '@model_path/weights/weight\.bin'"):
        read_program(package)
    package = read_package(path)
    value = package.model.mlProgram.functions["main"].block_specializations["CoreML6"].operations[0].attributes["val"]
    value.blobFileValue.fileName = WEIGHT_FILE.replace("weight.bin", "other.bin")
    np.testing.assert_array_equal(dict(read_program(package).constants())["w"].decode(), handmade.WEIGHT)
    assert FLOAT32 in handmade.proto("MIL").DataType.values()
