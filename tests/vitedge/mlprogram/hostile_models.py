# SPDX-License-Identifier: Apache-2.0
"""Models that somebody made to do harm, and what is said of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.vitedge.mlprogram import handmade
from tests.vitedge.mlprogram.handmade import FLOAT16, FLOAT32, INT32, STRING, block_of, constant, immediate, operation

Alter = Callable[[Any], object]
HUGE = 2**40


def first(model: Any) -> Any:
    """The constant that lies in the file of the weights."""
    return block_of(model).operations[0]


def set_offset(offset: int) -> Alter:
    return lambda model: setattr(first(model).attributes["val"].blobFileValue, "offset", offset)


def set_file(name: str) -> Alter:
    return lambda model: setattr(first(model).attributes["val"].blobFileValue, "fileName", name)


def set_shape(shape: tuple[int, ...], dtype: int = FLOAT32) -> Alter:
    def alter(model: Any) -> None:
        for message in (first(model).attributes["val"].type, first(model).outputs[0].type):
            message.Clear()
            handmade.tensor_type(message, dtype, shape)

    return alter


def add(value: Any) -> Alter:
    return lambda model: constant(block_of(model), "added", value)


def add_operation(kind: str, *shape: int) -> Alter:
    return lambda model: operation(block_of(model), kind, "added", shape, x="x")


def many(count: int, edge: int) -> Alter:
    """Values that are all alive at the end, each of an allowed size."""

    def alter(model: Any) -> None:
        block = block_of(model)
        names = [f"v{index}" for index in range(count)]
        for name in names:
            operation(block, "relu", name, (edge,), x="x")
        message = operation(block, "concat", "all", (3,))
        for name in names:
            message.inputs["values"].arguments.add().name = name

    return alter


def compressed(model: Any) -> None:
    """Constants that are small in their file and large in memory, each of an allowed size."""
    for index in range(9):
        operation(block_of(model), "constexpr_lut_to_dense", f"c{index}", (2**30,))


def nested(depth: int) -> Alter:
    def alter(model: Any) -> None:
        value = immediate("ints", [1], INT32, ())
        for _ in range(depth):
            outer = handmade.proto("MIL").Value()
            outer.type.listType.SetInParent()
            outer.immediateValue.list.values.add().CopyFrom(value)
            value = outer
        constant(block_of(model), "added", value)

    return alter


def another_rank(rank: int, edges: int) -> Alter:
    def alter(model: Any) -> None:
        tensor = block_of(model).operations[2].outputs[0].type.tensorType
        tensor.rank = rank
        del tensor.dimensions[:]
        tensor.MergeFromString(b"\x1a\0" * edges)

    return alter


def rename(name: str) -> Alter:
    def alter(model: Any) -> None:
        block_of(model).operations[2].outputs[0].name = name
        block_of(model).outputs[0] = name

    return alter


def change(statement: str) -> Alter:
    """``m`` is the model, ``f`` its function, ``b`` its block, ``k`` the value of the constant that is no file's."""

    def alter(model: Any) -> None:
        block, function = block_of(model), model.mlProgram.functions["main"]
        exec(statement, {"m": model, "f": function, "b": block, "k": block.operations[1].attributes["val"]})

    return alter


def without_type(model: Any) -> None:
    block_of(model).operations[2].outputs[0].type.Clear()


MODELS: list[tuple[str, Alter, str]] = [
    ("offset beyond the file", set_offset(2**20), "at offset 1048576, where there is none"),
    ("offset of 64 bits", set_offset(2**64 - 1), "where there is none"),
    ("offset not aligned", set_offset(65), "offset 65, where there is none"),
    ("offset of the data", set_offset(128), "offset 128, where there is none"),
    ("file outside", set_file("@model_path/../../../../etc/passwd"), "its weights are said to be in"),
    ("absolute file", set_file("/etc/passwd"), "its weights are said to be in '/etc/passwd'"),
    ("absolute file in the folder", set_file("@model_path//etc/passwd"), "its weights are said to be in"),
    ("file with a NUL", set_file("@model_path/\0"), "its weights are said to be in"),
    ("long file name", set_file("@model_path/" + "x" * 10**6), "its weights are said to be in"),
    ("folder for a file", set_file("@model_path/weights"), "its weights are said to be in"),
    ("another element type", set_shape((3, 4), INT32), "does not hold 12 values of int32"),
    ("an element type that is in no file", set_shape((3, 4), STRING), "does not hold 12 values of string"),
    ("unknown element type", set_shape((3, 4), 99), "element type 99"),
    ("another shape", set_shape((3, 5)), "does not hold 15 values"),
    ("no elements", set_shape((0, 4)), "does not hold 0 values"),
    ("a shape of 2^40", set_shape((HUGE,)), "shape \\(1099511627776,\\), which no model has"),
    ("a product beyond 64 bits", set_shape((2**32, 2**32, 2**32)), "which no model has"),
    ("an edge of 64 bits", set_shape((2**64 - 1,)), "which no model has"),
    ("immediate bytes too few", add(immediate("bytes", b"abc", FLOAT16, (2,))), "3 bytes where 2 values of float16"),
    ("immediate bytes too many", add(immediate("bytes", b"abc", 25, (2,))), "3 bytes where 2 values of int4"),
    ("numbers too few", add(immediate("ints", [1], INT32, (2**30,))), "1 ints where 1073741824 values"),
    ("numbers of another type", add(immediate("floats", [1.0], INT32, (1,))), "int32 in a list of floats"),
    ("strings too few", add(immediate("strings", ["a"], STRING, (2,))), "1 strings where 2 values"),
    (
        "a list that is declared a tensor",
        change("k.immediateValue.list.SetInParent()"),
        "has a list where it declares a float32",
    ),
    ("a constant without a value", change("k.ClearField('immediateValue')"), "constant without a value"),
    (
        "a constant of no fixed shape",
        change("k.type.tensorType.dimensions[0].unknown.variadic = True"),
        "whose shape is not fixed",
    ),
    (
        "a constant of another type than declared",
        change("b.operations[1].outputs[0].type.tensorType.dimensions[0].constant.size = 4"),
        "without a value of the declared type",
    ),
    ("a constant that makes nothing", change("del b.operations[1].outputs[:]"), "without a value of the declared type"),
    ("deep nesting", nested(30), "cannot be read as a Core ML model"),
    ("value of 2^40", add_operation("fill", HUGE), "which no model has"),
    ("tile of 2^60", add_operation("tile", 2**30, 2**30), "which no model has"),
    ("pad of 2^31", add_operation("pad", 2**31), "which no model has"),
    ("range of 2^63", add_operation("range_1d", 2**63), "which no model has"),
    ("constexpr of 2^40", add_operation("constexpr_lut_to_dense", HUGE), "which no model has"),
    ("many values just below the limit", many(3, 2**30), "holds values of 12288 MiB at one time"),
    ("thousands of values", many(3000, 2**24), "MiB at one time, and vitedge computes with 8192 MiB"),
    ("many decompressed constants", compressed, "holds values of 36864 MiB at one time"),
    ("a million dimensions", another_rank(10**6, 10**6), "damaged"),
    ("rank 100", another_rank(100, 100), "rank 100 with 100 edges"),
    ("negative rank", another_rank(-2, 0), "rank -2 with 0 edges"),
    ("unknown rank with edges", another_rank(-1, 2), "rank -1 with 2 edges"),
    ("rank that is not that of the edges", another_rank(2**62, 2), "with 2 edges"),
    ("a value without a type", without_type, "value without a type"),
    ("a state", change("f.inputs.add(name='s').type.stateType.wrappedType.tensorType.dataType = 11"), "keeps a state"),
    (
        "a missing value",
        change("b.operations[2].inputs['x'].arguments[0].name = 'none'"),
        "linear y reads none, which nothing before it makes",
    ),
    (
        "a circle",
        change("b.operations[2].inputs['x'].arguments[0].name = 'y'"),
        "linear y reads y, which nothing before it makes",
    ),
    (
        "a value read before it is made",
        change("b.operations.append(b.operations[0]); del b.operations[0]"),
        "reads w, which nothing",
    ),
    ("two values of one name", change("b.operations.append(b.operations[2])"), "two operations make y"),
    ("two inputs of one name", change("f.inputs.append(f.inputs[0])"), "two of its inputs have one name"),
    ("a missing output", change("b.outputs[0] = 'none'"), "nothing makes its output 'none'"),
    ("no output", change("del b.outputs[:]"), "nothing makes its output"),
    (
        "an operation that makes nothing",
        change("del b.operations[2].outputs[:]"),
        "operation linear that makes nothing",
    ),
    (
        "a parameter of nothing",
        change("del b.operations[2].inputs['x'].arguments[:]"),
        "parameter that nothing is bound to",
    ),
    ("a branch", change("b.operations[2].blocks.add()"), "branches or loops"),
    ("a name of NUL", rename("\0\0"), "has the name"),
    ("a name of terminal commands", rename("\x1b[2J"), "has the name"),
    ("a name of a megabyte", rename("y" * 10**6), "has the name"),
    ("an empty name", rename(""), "has the name ''"),
    ("an empty kind", change("b.operations[2].type = ''"), "has the name ''"),
    ("too many operations", change("b.MergeFromString(b'\\x1a\\0' * 10**6)"), "has the name ''"),
    (
        "too many arguments",
        change("b.operations[2].inputs['x'].MergeFromString(b'\\n\\0' * 10**6)"),
        "more than 131072 operations",
    ),
    (
        "too many features",
        change("m.description.MergeFromString(b'\\n\\0' * 10**6)"),
        "more than 131072 operations",
    ),
    (
        "an input that is not described",
        change("del m.description.input[:]"),
        "describes the inputs nothing of a program that takes x",
    ),
    (
        "an input of another name",
        change("m.description.input[0].name = 'z'"),
        "describes the inputs z of a program that takes x",
    ),
    (
        "an input of another shape",
        change("m.description.input[0].type.multiArrayType.shape[0] = 2**40"),
        "describes x as 1099511627776x4 and its program takes 1x4",
    ),
    (
        "an input of a million edges",
        change("m.description.input[0].type.multiArrayType.shape.extend([1] * 10**6)"),
        "rank above 16",
    ),
    (
        "two outputs of one name",
        change("m.description.output.append(m.description.output[0])"),
        "two features of one name",
    ),
    (
        "a neural network",
        change("m.neuralNetwork.SetInParent()"),
        "a model of the kind neuralNetwork where vitedge reads ML Programs",
    ),
    ("a pipeline", change("m.pipeline.models.add()"), "a model of the kind pipeline"),
    ("no model", change("m.ClearField('mlProgram')"), "holds no model"),
    ("no functions", change("m.mlProgram.ClearField('functions')"), "with a function 'main'"),
    (
        "another function",
        change("m.mlProgram.functions['other'].CopyFrom(f); del m.mlProgram.functions['main']"),
        "with a function 'main'",
    ),
    (
        "a default function that is not there",
        change("m.description.defaultFunctionName = 'other'"),
        "with a function 'other'",
    ),
    ("an operation set without a program", change("f.opset = 'CoreML9'"), "no program for its operation set 'CoreML9'"),
]
