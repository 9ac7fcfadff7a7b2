# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.vitedge.mlprogram.mil import executed
from tests.vitedge.mlprogram.ops.agreement import (
    applied,
    assert_default,
    assert_inferred,
    assert_rounded_once,
    assert_stated,
    uniform,
    whole,
)
from vitedge.errors import UnreadableArtifact
from vitedge.mlprogram.ops import elementwise
from vitedge.mlprogram.ops.elementwise import OPS

SHAPES = ((5,), (2, 3), (1, 2, 3, 4))
PAIRS = (((5,), (5,)), ((2, 3), (3,)), ((2, 1, 4), (3, 1)), ((1,), (1, 2, 3, 4)))
"""Shapes that broadcast, from either side."""

UNARY: dict[str, tuple[float, float]] = {
    "abs": (-3, 3),
    "acos": (-1, 1),
    "asin": (-1, 1),
    "atan": (-9, 9),
    "atanh": (-0.75, 0.75),
    "ceil": (-2.5, 3.5),
    "cos": (-9, 9),
    "cosh": (-5, 5),
    "erf": (-3, 3),
    "exp": (-9, 9),
    "exp2": (-9, 9),
    "floor": (-2.5, 3.5),
    "round": (-1.5, 2.5),  # three halves
    "sign": (-1, 1),
    "sin": (-9, 9),
    "sinh": (-5, 5),
    "sqrt": (0, 9),
    "square": (-9, 9),
    "tan": (-1.25, 1.25),
    "tanh": (-5, 5),
}
"""Operations on one value, and what they are tried between."""
OF_INTEGERS = {"abs": (-9, 9), "exp2": (0, 20), "sign": (-1, 1), "square": (-99, 99)}
WITH_EPSILON: dict[str, tuple[float, float]] = {"inverse": (0.5, 9), "log": (0, 9), "rsqrt": (0.25, 9)}
BOUNDED: dict[str, dict[str, float]] = {"clip": {"alpha": -1.25, "beta": 2.5}, "threshold": {"alpha": 0.5}}
BINARY = ("add", "sub", "mul", "real_div", "floor_div", "mod", "pow", "maximum", "minimum")
COMPARISONS = ("equal", "not_equal", "greater", "greater_equal", "less", "less_equal")
LOGICAL = ("logical_and", "logical_or", "logical_xor")


def test_every_operation_is_here() -> None:
    tested = {*UNARY, *WITH_EPSILON, *BOUNDED, *BINARY, *COMPARISONS, *LOGICAL, "logical_not", "cast", "select"}
    assert tested == set(OPS)


@pytest.mark.parametrize("name", UNARY)
def test_of_one_value(name: str) -> None:
    assert_inferred(applied(name), uniform(*UNARY[name], *SHAPES))


@pytest.mark.parametrize("name", OF_INTEGERS)
def test_of_one_integer(name: str) -> None:
    assert_inferred(applied(name), whole(*OF_INTEGERS[name], *SHAPES))


@pytest.mark.parametrize("name", UNARY)
def test_of_one_float16(name: str) -> None:
    assert_rounded_once(applied(name), applied(name), uniform(*UNARY[name], *SHAPES, dtype=np.float16))


@pytest.mark.parametrize("opset", ["iOS16", "iOS17"])
@pytest.mark.parametrize("attributes", [{}, {"epsilon": 0.5}, {"epsilon": 0.0}], ids=["default", "half", "none"])
@pytest.mark.parametrize("name", WITH_EPSILON)
def test_with_epsilon(name: str, attributes: dict[str, float], opset: str) -> None:
    inputs = uniform(*WITH_EPSILON[name], *SHAPES)
    assert_inferred(applied(name, **attributes), inputs, opset)
    single, half = (applied(name, dtype, **{"epsilon": 0.5, **attributes}) for dtype in (np.float32, np.float16))
    assert_rounded_once(half, single, {key: value.astype(np.float16) for key, value in inputs.items()}, opset)


@pytest.mark.parametrize(("name", "x"), [("inverse", 1e-4), ("log", 0.0), ("rsqrt", 1e-12)])
def test_defaults_are_those_of_coremltools(name: str, x: float) -> None:
    assert_default(name, np.array([x], np.float32))


@pytest.mark.parametrize(("name", "expected"), [("inverse", 1e5), ("log", np.log(1e-5)), ("rsqrt", 1e-5**-0.5)])
def test_a_float32_epsilon_keeps_float16_from_zero(name: str, expected: float) -> None:
    """From iOS17 on it has a type of its own; float16 would make 1e-5 some 2 % larger."""
    zero = {"x": np.zeros((2, 2), np.float16)}
    expected = np.full((2, 2), expected)
    assert_stated(applied(name, epsilon=1e-5), zero, expected, opset="iOS17", rtol=2**-11, atol=0)


@pytest.mark.parametrize("opset", ["iOS16", "iOS17"])
@pytest.mark.parametrize("name", BOUNDED)
def test_bounded(name: str, opset: str) -> None:
    inputs = uniform(-4, 4, *SHAPES)
    assert_inferred(applied(name, **BOUNDED[name]), inputs, opset)
    halves = {key: value.astype(np.float16) for key, value in inputs.items()}
    assert_rounded_once(applied(name, np.float16, **BOUNDED[name]), applied(name, **BOUNDED[name]), halves, opset)


def test_bounds_in_the_wrong_order() -> None:
    """Up to iOS16 nothing forbids them, and the upper one wins."""
    assert_inferred(applied("clip", alpha=2.0, beta=1.0), uniform(-4, 4, *SHAPES))


def test_threshold_of_integers() -> None:
    assert_inferred(applied("threshold", alpha=np.int32(2)), whole(-4, 4, *SHAPES))


def pairwise(name: str) -> Any:
    def build(mb, **inputs):
        values = list(inputs.values())
        return tuple(getattr(mb, name)(x=x, y=y) for x, y in zip(values[::2], values[1::2], strict=True))

    return build


@pytest.mark.parametrize("name", BINARY)
def test_of_two_values(name: str) -> None:
    inputs = uniform(0.25 if name == "pow" else -4, 4.5, *(shape for pair in PAIRS for shape in pair))
    assert_inferred(pairwise(name), inputs)
    halves = {key: value.astype(np.float16) for key, value in inputs.items()}
    assert_rounded_once(pairwise(name), pairwise(name), halves)


@pytest.mark.parametrize("name", BINARY)
def test_of_two_integers(name: str) -> None:
    inputs = whole(-7, 7, *(shape for pair in PAIRS for shape in pair))
    for index, (key, value) in enumerate(inputs.items()):
        if index % 2:
            inputs[key] = np.abs(value) if name == "pow" else np.where(value == 0, 3, value)
    assert_inferred(pairwise(name), inputs)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int32])
@pytest.mark.parametrize("name", COMPARISONS)
def test_comparisons(name: str, dtype: Any) -> None:
    inputs = whole(-2, 2, *(shape for pair in PAIRS for shape in pair))
    assert_inferred(pairwise(name), {key: value.astype(dtype) for key, value in inputs.items()})


@pytest.mark.parametrize("name", LOGICAL)
def test_of_two_truths(name: str) -> None:
    def build(mb, **inputs):
        values = [mb.cast(x=value, dtype="bool") for value in inputs.values()]
        return tuple(getattr(mb, name)(x=x, y=y) for x, y in zip(values[::2], values[1::2], strict=True))

    assert_inferred(build, whole(0, 1, *(shape for pair in PAIRS for shape in pair)))


def test_logical_not() -> None:
    def build(mb, **inputs):
        return tuple(mb.logical_not(x=mb.cast(x=value, dtype="bool")) for value in inputs.values())

    assert_inferred(build, whole(0, 1, *SHAPES))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int32])
@pytest.mark.parametrize("shapes", [((2, 3), (2, 3), (2, 3)), ((3,), (2, 3), (3,)), ((2, 1), (1,), (1, 2, 3))], ids=str)
def test_select(shapes: tuple[tuple[int, ...], ...], dtype: Any) -> None:
    def build(mb, x0, x1, x2):
        return mb.select(cond=mb.cast(x=x0, dtype="bool"), a=x1, b=x2)

    inputs = {**whole(0, 1, *shapes)}
    inputs.update((key, value.astype(dtype)) for key, value in uniform(-4, 4, *shapes).items() if key != "x0")
    assert_inferred(build, inputs)


def test_select_of_truths() -> None:
    def build(mb, **inputs):
        cond, a, b = (mb.cast(x=value, dtype="bool") for value in inputs.values())
        return mb.select(cond=cond, a=a, b=b)

    assert_inferred(build, whole(0, 1, (4, 4), (4, 4), (4, 4)))


def test_select_without_values_names_the_places() -> None:
    cond = np.array([[True, False, True], [False, False, True]])
    assert OPS["select"](cond=torch.from_numpy(cond)).tolist() == np.argwhere(cond).tolist()


VALUES = {
    "float32": np.array([-120.9, -2.5, -1.0, -0.5, -0.0, 0.25, 0.99, 1.5, 7.0, 126.9], np.float32),
    "float16": np.array([-120.9, -2.5, -1.0, -0.5, -0.0, 0.25, 0.99, 1.5, 7.0, 126.9], np.float16),
    "int32": np.array([-40000, -129, -1, 0, 1, 127, 200, 256, 40000, 2**24 + 1], np.int32),
}


def cast_to(dtype: str, back: str) -> Any:
    """There and back, because a model has no outputs of some of these types."""

    def build(mb, x):
        return mb.cast(x=mb.cast(x=x, dtype=dtype), dtype=back)

    return build


@pytest.mark.parametrize("source", VALUES)
@pytest.mark.parametrize("dtype", ["bool", "int32", "fp32", "fp16"])
def test_cast(source: str, dtype: str) -> None:
    for back in ("int32", "fp32"):
        if (source, dtype, back) != ("int32", "fp16", "int32"):  # infinity has no integer
            assert_inferred(cast_to(dtype, back), {"x": VALUES[source]})


@pytest.mark.parametrize("source", VALUES)
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16"])
def test_cast_to_small_integers(source: str, dtype: str) -> None:
    values = VALUES[source]
    if source != "int32" and dtype.startswith("u"):
        values = np.abs(values)
    for back in ("int32", "fp32"):
        assert_inferred(cast_to(dtype, back), {"x": values}, "iOS17")


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32"])
def test_cast_of_what_does_not_fit(dtype: str) -> None:
    x = np.array([np.nan, np.inf, -np.inf, 3e9, -3e9, 70000.5, -70000.5, 300.0, -300.0], np.float32)
    bounds = np.iinfo(dtype)
    expected = np.trunc(np.nan_to_num(x.astype(np.float64), nan=0.0)).clip(bounds.min, bounds.max)
    assert_stated(cast_to(dtype, "int32"), {"x": x}, expected, opset="iOS17")


def test_cast_to_float16_is_not_rounded_where_float32_was_asked_for() -> None:
    x = np.array([0.1, 70000.0], np.float32)
    build = cast_to("fp16", "fp32")
    np.testing.assert_array_equal(executed(build, {"x": x}), np.array([np.float16(0.1), np.inf], np.float32))
    np.testing.assert_array_equal(executed(build, {"x": x}, compute="fp32"), x)


@pytest.mark.parametrize("dtype", ["int4", "uint64", "complex"])
def test_no_such_cast(dtype: str) -> None:
    with pytest.raises(UnreadableArtifact, match=dtype):
        elementwise.cast(torch.zeros(2), dtype)


OVERFLOWS: dict[str, tuple[float, ...]] = {
    "exp": (12,),
    "exp2": (16,),
    "cosh": (12,),
    "square": (256,),
    "add": (65504, 32),
    "mul": (-300, 300),
    "pow": (16, 4),
    "real_div": (60000, 0.5),
}


@pytest.mark.parametrize("name", OVERFLOWS)
def test_float16_overflows_to_infinity(name: str) -> None:
    def build(mb, **inputs):
        return getattr(mb, name)(**inputs)

    arrays = {key: np.array([value], np.float16) for key, value in zip("xy", OVERFLOWS[name], strict=False)}
    assert np.isinf(executed(build, arrays)).all()
    assert np.isfinite(executed(build, arrays, compute="fp32")).all()


@pytest.mark.parametrize("name", ["abs", "sign", "round", "sqrt", "maximum", "minimum", "mod", "clip", "threshold"])
def test_not_a_number_is_not_hidden(name: str) -> None:
    def build(mb, x, y):
        return getattr(mb, name)(**({"x": x, "y": y} if name in BINARY else {"x": x, **BOUNDED.get(name, {})}))

    inputs = {"x": np.array([np.nan, 1.0], np.float32), "y": np.ones(2, np.float32)}
    np.testing.assert_array_equal(np.isnan(executed(build, inputs)), [True, False])


@pytest.mark.parametrize("name", ["real_div", "floor_div"])
def test_the_lowest_integer_by_minus_one(name: str) -> None:
    """It has no result. PyTorch ends the process at one of these divisions, which a package must not be able to do."""
    x, y = np.full(9, -(2**31), np.int32), np.full(9, -1, np.int32)
    assert_stated(pairwise(name), {"x": x, "y": y}, x)
    assert_stated(pairwise("mod"), {"x": x, "y": y}, np.zeros(9))


@pytest.mark.parametrize("name", ["real_div", "floor_div", "mod"])
def test_integers_by_zero(name: str) -> None:
    one = np.ones(2, np.int32)
    with pytest.raises(UnreadableArtifact, match=rf"{name} .* cannot be computed: .*Zero"):
        executed(pairwise(name), {"x": one, "y": one * 0})


def test_floats_by_zero() -> None:
    x = np.array([1, -1, 0], np.float32)
    assert_stated(pairwise("real_div"), {"x": x, "y": x * 0}, np.array([np.inf, np.inf, np.nan]))
