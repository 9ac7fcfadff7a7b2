# SPDX-License-Identifier: Apache-2.0
"""Comparisons of the operations' tests: with coremltools' own inference, with a statement in NumPy, with float32."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from tests.vitedge.mlprogram.mil import Build, executed, inferred
from vitedge.mlprogram.ops import OPS

Arrays = Mapping[str, np.ndarray]


def applied(name: str, dtype: Any = np.float32, **attributes: Any) -> Build:
    """The operation of that name on each input by itself; its attributes that are floats are of the given type."""
    typed = {key: _typed(value, dtype) for key, value in attributes.items()}

    def build(mb: Any, **inputs: Any) -> Any:
        return tuple(getattr(mb, name)(x=x, **typed) for x in inputs.values())

    return build


def uniform(low: float, high: float, *shapes: tuple[int, ...], dtype: Any = np.float32) -> dict[str, np.ndarray]:
    """One input per shape, named in their order, with the ends and the middle among its values."""
    generator = np.random.default_rng(0)
    made = {f"x{index}": generator.uniform(low, high, shape).astype(dtype) for index, shape in enumerate(shapes)}
    for value in made.values():
        flat = value.reshape(-1)
        flat[:3] = np.array([low, (low + high) / 2, high])[: flat.size]
    return made


def whole(low: int, high: int, *shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    """One input of integers per shape, both ends included."""
    generator = np.random.default_rng(0)
    made = (generator.integers(low, high, shape, dtype=np.int32, endpoint=True) for shape in shapes)
    return {f"x{index}": value for index, value in enumerate(made)}


def assert_inferred(build: Build, inputs: Arrays, opset: str = "iOS16", rtol: float = 1e-5) -> None:
    """The runtime computes what coremltools infers. It is given copies, because some of it writes to them."""
    with np.errstate(all="ignore"):
        expected = inferred(build, {name: value.copy() for name, value in inputs.items()}, opset)
    assert_stated(build, inputs, *(expected if isinstance(expected, tuple) else (expected,)), opset=opset, rtol=rtol)


def assert_stated(
    build: Build, inputs: Arrays, *expected: Any, opset: str = "iOS16", rtol: float = 1e-5, atol: float = 1e-6
) -> None:
    """The runtime computes what is expected, value for value, with integers exactly so."""
    found = executed(build, inputs, opset)
    several = found if isinstance(found, tuple) else (found,)
    assert len(several) == len(expected)
    for one, other in zip(several, expected, strict=True):
        # Inference leaves some results in float64, and so do statements.
        with np.errstate(over="ignore"):
            wanted = np.asarray(other).astype(one.dtype)
        assert one.shape == wanted.shape
        exact = one.dtype.kind in "bi"
        np.testing.assert_allclose(one, wanted, rtol=0 if exact else rtol, atol=0 if exact else atol)


def assert_rounded_once(half: Build, single: Build, inputs: Arrays, opset: str = "iOS16") -> None:
    """Checks that a float16 result is that of float32, rounded once at the end, to the bit."""
    several = executed(half, inputs, opset)
    exact = executed(single, {name: value.astype(np.float32) for name, value in inputs.items()}, opset)
    for one, other in zip(
        *(value if isinstance(value, tuple) else (value,) for value in (several, exact)), strict=True
    ):
        assert (one.dtype, other.dtype) == (np.float16, np.float32)
        with np.errstate(over="ignore"):
            np.testing.assert_array_equal(one, other.astype(np.float16))


def assert_default(name: str, x: np.ndarray, **required: Any) -> None:
    """A function means the same by what it leaves out as coremltools, which writes its defaults into the program."""
    build = applied(name, np.float32, **required)
    tensors = {key: torch.as_tensor(_typed(value, np.float32)) for key, value in required.items()}
    found = OPS[name](x=torch.from_numpy(x.copy()), **tensors)
    np.testing.assert_array_equal(found.numpy(), executed(build, {"x": x}))


def _typed(value: Any, dtype: Any) -> Any:
    if isinstance(value, float) or (isinstance(value, np.ndarray) and value.dtype.kind == "f"):
        return np.asarray(value).astype(dtype)[()]
    return value
