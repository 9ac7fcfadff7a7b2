# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
import weakref

import numpy as np
import pytest
import torch

from tests.vitedge.mlprogram.mil import program
from vitedge.errors import BadRecipe, UnreadableArtifact, UnsupportedOperation
from vitedge.mlprogram import interpreter as under_test
from vitedge.mlprogram.interpreter import MLProgramInterpreter
from vitedge.mlprogram.program import Literal, Named

X = np.linspace(-2, 2, 12, dtype=np.float32).reshape(3, 4)
WEIGHT = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)


def layers(mb, x):
    """A linear layer, an activation, and what both are taken from again."""
    hidden = mb.linear(x=x, weight=WEIGHT, name="hidden")
    active = mb.gelu(x=hidden, mode="EXACT", name="active")
    return mb.concat(values=(active, hidden), axis=1, name="out")


@pytest.fixture(scope="module")
def small():
    return program(layers, {"x": X})


def feeds(value=X):
    return {"x": torch.from_numpy(np.array(value))}


def edited(read, of_kind, **changes):
    """The program with the operations of a kind altered."""
    operations = tuple(
        dataclasses.replace(operation, **changes) if operation.kind == of_kind else operation
        for operation in read.operations
    )
    return dataclasses.replace(read, operations=operations)


def stated():
    hidden = torch.from_numpy(X) @ torch.from_numpy(WEIGHT).T
    return torch.cat([torch.nn.functional.gelu(hidden), hidden], 1)


def test_only_the_outputs_are_returned(small):
    found = MLProgramInterpreter(small).run(feeds())
    assert list(found) == ["out"]
    torch.testing.assert_close(found["out"], stated(), rtol=1e-5, atol=1e-6)


def test_wanted_values_are_returned_too(small):
    weight = next(name for name, literal in small.constants() if literal.type.shape == WEIGHT.shape)
    found = MLProgramInterpreter(small).run(feeds(), ("hidden", "x", weight))
    assert set(found) == {"out", "hidden", "x", weight}
    torch.testing.assert_close(found["hidden"], stated()[:, 5:], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found["x"], X)
    np.testing.assert_array_equal(found[weight], WEIGHT)


def test_running_twice_gives_the_same_and_leaves_the_inputs_alone(small):
    interpreter, given = MLProgramInterpreter(small), feeds()
    first = interpreter.run(given)["out"]
    assert torch.equal(interpreter.run(given)["out"], first)
    np.testing.assert_array_equal(given["x"], X)


def test_a_substitute_is_read_in_place_of_what_was_made(small):
    zeros = torch.zeros(3, 5)
    found = MLProgramInterpreter(small).run(feeds(), ("hidden",), substitutes={"hidden": zeros})
    assert not found["out"].any()
    torch.testing.assert_close(found["hidden"], stated()[:, 5:], rtol=1e-5, atol=1e-6)


def test_the_watch_is_told_of_every_operation_in_order(small):
    seen = []
    MLProgramInterpreter(small).run(
        feeds(), watch=lambda operation, results: seen.append((operation.kind, results[0].shape))
    )
    assert seen == [("linear", (3, 5)), ("gelu", (3, 5)), ("concat", (3, 10))]


def test_the_watch_sees_what_is_too_large_for_float16():
    def build(mb, x):
        return mb.square(x=x)

    seen = []
    found = MLProgramInterpreter(program(build, {"x": X.astype(np.float16)})).run(
        {"x": torch.full((3, 4), 300.0, dtype=torch.float16)}, watch=lambda _, results: seen.append(results[0].max())
    )
    assert seen[0] == 90000
    assert torch.isinf(*found.values()).all()


def test_values_are_let_go_after_their_last_reader():
    def chain(mb, x):
        for name in ("first", "second", "third", "fourth"):
            x = mb.relu(x=x, name=name)
        return x

    made, alive = {}, []

    def watch(operation, results):
        alive.append([name for name, reference in made.items() if reference() is not None])
        made[operation.name] = weakref.ref(results[0])

    MLProgramInterpreter(program(chain, {"x": X})).run(feeds(), watch=watch)
    assert alive == [[], ["first"], ["second"], ["third"]]


def test_what_nobody_reads_is_let_go_at_once():
    def halves(mb, x):
        left, _ = mb.split(x=x, num_splits=2, axis=1)
        return mb.relu(x=left)

    interpreter = MLProgramInterpreter(program(halves, {"x": X}))
    (split, relu) = interpreter._steps
    assert set(split.releases) == {split.operation.outputs[1].name, "x"}
    assert set(relu.releases) == {split.operation.outputs[0].name, relu.operation.name}


HALF = X.astype(np.float16) / 3


def halved(mb, x):
    hidden = mb.linear(x=x, weight=WEIGHT.astype(np.float16))
    return mb.softmax(x=mb.mul(x=mb.cast(x=hidden, dtype="fp16"), y=np.float16(0.1)), axis=-1)


def test_float16_is_rounded_after_every_operation():
    (found,) = MLProgramInterpreter(program(halved, {"x": HALF})).run({"x": torch.from_numpy(HALF)}).values()
    hidden = (HALF.astype(np.float32) @ WEIGHT.astype(np.float16).astype(np.float32).T).astype(np.float16)
    scaled = (hidden.astype(np.float32) * np.float32(np.float16(0.1))).astype(np.float16).astype(np.float32)
    assert found.dtype == torch.float16
    torch.testing.assert_close(found, torch.from_numpy(scaled).softmax(-1).half(), rtol=1e-3, atol=0)


def test_computed_in_fp32_a_half_program_is_float32_arithmetic_on_its_constants():
    (found,) = MLProgramInterpreter(program(halved, {"x": HALF}), "fp32").run({"x": torch.from_numpy(HALF)}).values()
    weight = torch.from_numpy(WEIGHT.astype(np.float16)).float()
    hidden = torch.nn.functional.linear(torch.from_numpy(HALF).float(), weight)
    assert found.dtype == torch.float32
    assert torch.equal(found, (hidden * torch.tensor(0.1).half().float()).softmax(-1))


def test_there_are_two_ways_to_compute(small):
    with pytest.raises(BadRecipe, match="There is no --compute int8; choose from declared, fp32"):
        MLProgramInterpreter(small, "int8")


def test_an_unknown_operation_is_named_with_its_place_and_where_to_add_it(small):
    with pytest.raises(UnsupportedOperation) as caught:
        MLProgramInterpreter(edited(small, "gelu", kind="gelus"))
    said = str(caught.value)
    assert "the operation gelus" in said
    assert "it makes active from hidden;" in said
    assert "OPS of vitedge.mlprogram.ops.activation" in said


def test_another_shape_than_the_declared_one_is_damage(small):
    (output,) = next(operation for operation in small.operations if operation.kind == "gelu").outputs
    wrong = dataclasses.replace(output, type=dataclasses.replace(output.type, shape=(3, 6)))
    with pytest.raises(UnreadableArtifact, match=r"active is \(3, 5\) and is declared to be \(3, 6\)"):
        MLProgramInterpreter(edited(small, "gelu", outputs=(wrong,))).run(feeds())
    open_edge = dataclasses.replace(output, type=dataclasses.replace(output.type, shape=(3, None)))
    assert MLProgramInterpreter(edited(small, "gelu", outputs=(open_edge,))).run(feeds())


def test_another_number_of_results_than_declared_is_damage(small):
    (output,) = next(operation for operation in small.operations if operation.kind == "gelu").outputs
    second = dataclasses.replace(output, name="second")
    with pytest.raises(UnreadableArtifact, match="it makes 1 values, not 2"):
        MLProgramInterpreter(edited(small, "gelu", outputs=(output, second))).run(feeds())


@pytest.mark.parametrize(
    "inputs",
    [{}, {"x": ()}, {"x": (Named("hidden"), Named("hidden"))}, {"x": (Named("hidden"),), "y": (Named("hidden"),)}],
    ids=["no parameters", "no argument", "two arguments", "a parameter too many"],
)
def test_arguments_that_do_not_fit_are_damage(small, inputs):
    with pytest.raises(UnreadableArtifact, match="gelu active cannot be computed"):
        MLProgramInterpreter(edited(small, "gelu", inputs=inputs)).run(feeds())


def test_a_list_may_hold_constants_beside_values():
    constant = np.full((3, 2), 7, np.float32)

    def build(mb, x):
        return mb.concat(values=(x, constant, mb.relu(x=x)), axis=1)

    read = program(build, {"x": X})
    expected = np.concatenate([X, constant, np.maximum(X, 0)], 1)
    (found,) = MLProgramInterpreter(read).run(feeds()).values()
    np.testing.assert_array_equal(found, expected)

    # The same with the constant in the place where it is read, as other writers of packages have it.
    concat = next(operation for operation in read.operations if operation.kind == "concat")
    literals = dict(read.constants())
    values = tuple(literals.get(argument.name, argument) for argument in concat.inputs["values"])
    assert [type(argument) for argument in values] == [Named, Literal, Named]
    (found,) = (
        MLProgramInterpreter(edited(read, "concat", inputs={**concat.inputs, "values": values})).run(feeds()).values()
    )
    np.testing.assert_array_equal(found, expected)


def test_a_list_of_one_constant_stays_a_list():
    constant = np.full((3, 2), 7, np.float32)

    def build(mb, x):
        return mb.add(x=mb.concat(values=(constant,), axis=0), y=x)

    (found,) = MLProgramInterpreter(program(build, {"x": X[:, :2].copy()})).run(feeds(X[:, :2])).values()
    np.testing.assert_array_equal(found, X[:, :2] + 7)


WRONG = {
    "another shape": (torch.zeros(4, 3), r"takes x as float32 of shape \(3, 4\), not float32 of shape \(4, 3\)"),
    "another rank": (torch.zeros(12), r"not float32 of shape \(12,\)"),
    "integers": (torch.zeros(3, 4, dtype=torch.int32), r"not int32 of shape \(3, 4\)"),
}


@pytest.mark.parametrize("case", WRONG)
def test_an_input_that_does_not_fit_is_refused(small, case):
    given, said = WRONG[case]
    with pytest.raises(BadRecipe, match=said):
        MLProgramInterpreter(small).run({"x": given})


def test_a_missing_input_is_named(small):
    with pytest.raises(BadRecipe, match="takes an input x, which is not given"):
        MLProgramInterpreter(small).run({})


def test_an_input_of_another_precision_is_rounded_to_the_declared_one(small):
    assert MLProgramInterpreter(small).run({"x": torch.from_numpy(X).double()})["out"].dtype == torch.float32


def test_constants_share_the_memory_of_the_file_and_are_not_written_back():
    weight = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)

    def build(mb, x):
        return mb.linear(x=x, weight=weight)

    read = program(build, {"x": np.zeros((1, 64), np.float32)})
    literal = next(literal for _, literal in read.constants() if literal.in_file)
    constant = under_test.tensor(literal)
    assert constant.data_ptr() == under_test.tensor(literal).data_ptr()
    (blob,) = read.package.path.rglob("weight.bin")
    before = blob.read_bytes()
    constant.zero_()
    assert blob.read_bytes() == before


IMMEDIATE = {
    "bools": np.array([True, False, True]),
    "float32": np.array([0.1, -3e38, np.inf], np.float32),
    "float16": np.array([0.1, 65504, -np.inf], np.float16),
    "int32": np.array([-(2**31), 0, 2**31 - 1], np.int32),
    "int16": np.array([-(2**15), 0, 2**15 - 1], np.int16),
    "uint16": np.array([0, 2**15, 2**16 - 1], np.uint16),
    "int8": np.array([-128, 0, 127], np.int8),
    "uint8": np.array([0, 128, 255], np.uint8),
}


@pytest.mark.parametrize("case", IMMEDIATE)
def test_small_constants_are_read_from_the_specification(case):
    value = IMMEDIATE[case]

    def build(mb, x):
        constant = mb.const(val=value, name="constant")
        return mb.relu(x=x), mb.identity(x=constant, name="copy")

    read = program(build, {"x": X}, "iOS18")
    found = MLProgramInterpreter(read).run(feeds(), ("constant",))["constant"]
    np.testing.assert_array_equal(found.numpy(), value)
    assert not next(literal for name, literal in read.constants() if name == "constant").in_file
