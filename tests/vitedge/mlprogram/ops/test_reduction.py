# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.vitedge.mlprogram.mil import Build, executed
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
from vitedge.mlprogram.ops.reduction import OPS

REDUCTIONS: dict[str, tuple[int, int]] = {
    "reduce_l1_norm": (-5, 5),
    "reduce_l2_norm": (-5, 5),
    "reduce_log_sum": (1, 9),
    "reduce_log_sum_exp": (-5, 5),
    "reduce_max": (-5, 5),
    "reduce_mean": (-5, 5),
    "reduce_min": (-5, 5),
    "reduce_prod": (1, 2),
    "reduce_sum": (-5, 5),
    "reduce_sum_square": (-5, 5),
}
"""Reductions over several axes, and what they are tried between."""
AXES: dict[int, tuple[tuple[int, ...] | None, ...]] = {
    1: (None, (0,)),
    2: (None, (0,), (-1,), (1, 0)),
    4: (None, (1,), (-1,), (2, 3), (-1, 0), (0, 1, 2, 3)),
}
"""By rank."""
SHAPES = ((7,), (3, 2), (2, 3, 1, 2))
INDICES = ("reduce_argmax", "reduce_argmin")


def test_every_operation_is_here() -> None:
    assert {*REDUCTIONS, *INDICES, "cumsum"} == set(OPS)


def over_axes(name: str) -> Build:
    """One operation for each choice of axes, with and without keeping them."""

    def build(mb: Any, **inputs: Any) -> Any:
        reduce = getattr(mb, name)
        return tuple(
            reduce(x=x, keep_dims=keep) if axes is None else reduce(x=x, axes=list(axes), keep_dims=keep)
            for x in inputs.values()
            for axes in AXES[len(x.shape)]
            for keep in (False, True)
        )

    return build


@pytest.mark.parametrize("name", REDUCTIONS)
def test_reduction(name: str) -> None:
    assert_inferred(over_axes(name), uniform(*REDUCTIONS[name], *SHAPES))


@pytest.mark.parametrize("name", REDUCTIONS)
def test_reduction_of_integers(name: str) -> None:
    assert_inferred(over_axes(name), whole(*REDUCTIONS[name], *SHAPES))


def test_the_mean_of_integers_that_float32_does_not_hold() -> None:
    x = np.array([2**24 + 1, 2**24 + 1, 2**30 + 3, 2**30 + 3], np.int32).reshape(2, 2)
    assert_inferred(lambda mb, x: mb.reduce_mean(x=x, axes=[1]), {"x": x})


@pytest.mark.parametrize("name", REDUCTIONS)
def test_reduction_of_float16(name: str) -> None:
    assert_rounded_once(over_axes(name), over_axes(name), uniform(*REDUCTIONS[name], *SHAPES, dtype=np.float16))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("reduce_mean", 60000),
        ("reduce_max", 60000),
        ("reduce_sum", np.inf),
        ("reduce_l1_norm", np.inf),
        ("reduce_l2_norm", np.inf),
        ("reduce_sum_square", np.inf),
        ("reduce_prod", np.inf),
        ("reduce_log_sum", np.log(240000)),
    ],
)
def test_float16_overflows_at_the_end_only(name: str, expected: float) -> None:
    """The mean is there although the sum is not."""
    x = {"x": np.full(4, 60000, np.float16)}
    assert_stated(lambda mb, x: getattr(mb, name)(x=x, axes=[0], keep_dims=True), x, np.array([expected]), rtol=2**-11)


def test_the_logarithm_of_huge_exponentials() -> None:
    x = {"x": np.array([[1000.0, 1000.0], [-1000.0, -np.inf]], np.float32)}
    expected = np.array([1000 + np.log(2), -1000])
    assert_stated(lambda mb, x: mb.reduce_log_sum_exp(x=x, axes=[1]), x, expected)


@pytest.mark.parametrize("name", REDUCTIONS)
def test_no_axes_reduce_nothing(name: str) -> None:
    """An empty list is not a missing one."""
    x = np.array([[-2.0, 3.0]])
    expected = {
        "reduce_l1_norm": np.abs(x),
        "reduce_l2_norm": np.abs(x),
        "reduce_sum_square": x**2,
        "reduce_log_sum": np.log(x, where=x > 0, out=np.full_like(x, np.nan)),
    }
    found = OPS[name](x=torch.from_numpy(x), axes=torch.zeros(0, dtype=torch.int32))
    np.testing.assert_allclose(found.numpy(), expected.get(name, x))


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.int32])
@pytest.mark.parametrize("name", INDICES)
def test_index(name: str, dtype: Any, keep: bool) -> None:
    generator = np.random.default_rng(0)
    inputs = {f"x{len(shape)}": generator.permutation(np.prod(shape)).reshape(shape).astype(dtype) for shape in SHAPES}

    def build(mb: Any, **inputs: Any) -> Any:
        reduce = getattr(mb, name)
        return tuple(reduce(x=x, axis=axis, keep_dims=keep) for x in inputs.values() for axis in (0, -1))

    assert_inferred(build, inputs)


@pytest.mark.parametrize("dtype", ["int32", "uint16", None])
@pytest.mark.parametrize("name", INDICES)
def test_index_of_a_given_type(name: str, dtype: str | None) -> None:
    x = np.random.default_rng(0).permutation(24).reshape(2, 3, 4).astype(np.float16)

    def build(mb: Any, x: Any) -> Any:
        chosen = {} if dtype is None else {"output_dtype": dtype}
        return mb.cast(x=getattr(mb, name)(x=x, axis=1, **chosen), dtype="int32")

    expected = (np.argmax if name == "reduce_argmax" else np.argmin)(x, axis=1)
    assert_stated(build, {"x": x}, expected, opset="iOS17")


@pytest.mark.parametrize("name", INDICES)
def test_an_index_of_no_type(name: str) -> None:
    with pytest.raises(UnreadableArtifact, match="'int7'"):
        OPS[name](x=torch.zeros(2), output_dtype="int7")


@pytest.mark.parametrize("name", OPS)
def test_defaults_are_those_of_coremltools(name: str) -> None:
    assert_default(name, uniform(1, 4, (2, 3, 4))["x0"])


def summed(x: np.ndarray, axis: int, *, exclusive: bool, reverse: bool) -> np.ndarray:
    """Each element's sum, written out. coremltools' inference of exclusive sums fails."""
    moved = np.moveaxis(x.astype(np.float64), axis, 0)
    result = np.zeros_like(moved)
    for index in range(len(moved)):
        if reverse:
            result[index] = moved[index + exclusive :].sum(0)
        else:
            result[index] = moved[: index + (not exclusive)].sum(0)
    return np.moveaxis(result, 0, axis)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.int32])
@pytest.mark.parametrize(("shape", "axis"), [((5,), 0), ((3, 2), -1), ((2, 3, 4), 1)])
def test_cumsum(shape: tuple[int, ...], axis: int, dtype: Any, exclusive: bool, reverse: bool) -> None:
    x = np.random.default_rng(0).integers(-9, 9, shape).astype(dtype)

    def build(mb: Any, x: Any) -> Any:
        return mb.cumsum(x=x, axis=axis, exclusive=exclusive, reverse=reverse)

    assert_stated(build, {"x": x}, summed(x, axis, exclusive=exclusive, reverse=reverse))


def test_cumsum_as_inferred() -> None:
    assert_inferred(applied("cumsum"), uniform(-5, 5, *SHAPES))
    assert_inferred(applied("cumsum", reverse=True), uniform(-5, 5, *SHAPES))


def test_cumsum_of_float16() -> None:
    def build(mb: Any, x: Any) -> Any:
        return mb.cumsum(x=x, exclusive=True)

    x = np.array([2048, 1, 1, 1, 65000, 65000], np.float16)
    assert_rounded_once(build, build, {"x": x})
    np.testing.assert_array_equal(executed(build, {"x": x})[:4], [0, 2048, 2048, 2050])
