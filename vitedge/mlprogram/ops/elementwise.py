# SPDX-License-Identifier: Apache-2.0
"""Unary, binary and logical operations, comparisons, selection."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vitedge.errors import UnreadableArtifact
from vitedge.mlprogram.ops.arguments import ALIASES, Function, Table, dtype_of

INTEGER_RANGES = {
    "int8": (-(2**7), 2**7 - 1),
    "uint8": (0, 2**8 - 1),
    "int16": (-(2**15), 2**15 - 1),
    "uint16": (0, 2**16 - 1),
    "int32": (-(2**31), 2**31 - 1),
}
"""The integers that MIL casts to."""


def _of_x(compute: Callable[[Tensor], Tensor]) -> Function:
    """A function of one value, under MIL's name for it."""

    def call(x: Tensor) -> Tensor:
        return compute(x)

    return call


def _of_x_and_y(compute: Callable[[Tensor, Tensor], Tensor]) -> Function:
    """A function of two values that broadcast, under MIL's names for them."""

    def call(x: Tensor, y: Tensor) -> Tensor:
        return compute(x, y)

    return call


def exp2(x: Tensor) -> Tensor:
    """Two to the power of x; what is below one is zero among integers."""
    return torch.exp2(x) if x.is_floating_point() else torch.pow(torch.full_like(x, 2), x)


def sign(x: Tensor) -> Tensor:
    """-1, 0 or 1; not a number stays so, where PyTorch makes it zero."""
    return torch.where(torch.isnan(x), x, torch.sign(x)) if x.is_floating_point() else torch.sign(x)


def inverse(x: Tensor, epsilon: Tensor | float = 1e-4) -> Tensor:
    """1 / (x + epsilon)."""
    return torch.reciprocal(x + epsilon)


def log(x: Tensor, epsilon: Tensor | float = 1e-45) -> Tensor:
    """Natural logarithm of x + epsilon."""
    return torch.log(x + epsilon)


def rsqrt(x: Tensor, epsilon: Tensor | float = 1e-12) -> Tensor:
    """1 / sqrt(x + epsilon)."""
    return torch.rsqrt(x + epsilon)


def clip(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """X, at least alpha and at most beta."""
    return torch.minimum(torch.maximum(x, alpha), beta)


def threshold(x: Tensor, alpha: Tensor) -> Tensor:
    """X, at least alpha."""
    return torch.maximum(x, alpha)


def cast(x: Tensor, dtype: str) -> Tensor:
    """X as another type: floats are truncated to integers, and whatever is not zero is true.

    Of what does not fit, MIL says nothing, and processors differ. Here floats go to the nearest integer that there is,
    and to zero where they are no number; integers keep their lowest bits.

    Raises:
        UnreadableArtifact: there is no such type to cast to.
    """
    name = ALIASES.get(dtype, dtype)
    if name == "bool":
        return x != 0
    if name in INTEGER_RANGES:
        low, high = INTEGER_RANGES[name]
        if x.is_floating_point():
            # float64, because float32 has no 2**31 - 1.
            return x.double().nan_to_num(nan=0.0).clamp(low, high).to(dtype_of(name))
        # uint16 is kept in something wider, which would not drop the highest bits by itself.
        return (x.long() & high if low == 0 else x).to(dtype_of(name))
    if not dtype_of(name).is_floating_point:
        raise UnreadableArtifact(f"There is no cast to {dtype!r}.")
    # The interpreter rounds to the declared type, unless it was told to compute everything in float32.
    return x if x.is_floating_point() else x.float()


def real_div(x: Tensor, y: Tensor) -> Tensor:
    """X / y; among integers, rounded towards zero.

    MIL gives the quotient of two integers their own type.
    """
    if x.is_floating_point() or y.is_floating_point():
        return torch.div(x, y)
    # Not div(rounding_mode="trunc"): the lowest integer by -1 ends the whole process there.
    quotient = torch.div(x, y, rounding_mode="floor")
    inexact = torch.remainder(x, y) != 0
    return quotient + (inexact & ((x < 0) != (y < 0))).to(quotient.dtype)


def floor_div(x: Tensor, y: Tensor) -> Tensor:
    """X / y, rounded down."""
    return torch.div(x, y, rounding_mode="floor")


def select(cond: Tensor, a: Tensor | None = None, b: Tensor | None = None) -> Tensor:
    """A where the condition holds, else b; without those, the indices at which it holds: (n, rank)."""
    if a is None or b is None:
        return torch.nonzero(cond)
    return torch.where(cond.bool(), a, b)


OPS: Table = {
    "abs": _of_x(torch.abs),
    "acos": _of_x(torch.acos),
    "asin": _of_x(torch.asin),
    "atan": _of_x(torch.atan),
    "atanh": _of_x(torch.atanh),
    "ceil": _of_x(torch.ceil),
    "cos": _of_x(torch.cos),
    "cosh": _of_x(torch.cosh),
    "erf": _of_x(torch.erf),
    "exp": _of_x(torch.exp),
    "exp2": exp2,
    "floor": _of_x(torch.floor),
    "logical_not": _of_x(torch.logical_not),
    "round": _of_x(torch.round),  # half to even
    "sign": sign,
    "sin": _of_x(torch.sin),
    "sinh": _of_x(torch.sinh),
    "sqrt": _of_x(torch.sqrt),
    "square": _of_x(torch.square),
    "tan": _of_x(torch.tan),
    "tanh": _of_x(torch.tanh),
    "inverse": inverse,
    "log": log,
    "rsqrt": rsqrt,
    "clip": clip,
    "threshold": threshold,
    "cast": cast,
    "add": _of_x_and_y(torch.add),
    "sub": _of_x_and_y(torch.sub),
    "mul": _of_x_and_y(torch.mul),
    "real_div": real_div,
    "floor_div": floor_div,
    "mod": _of_x_and_y(torch.remainder),  # the sign of y, as in Python
    "pow": _of_x_and_y(torch.pow),
    "maximum": _of_x_and_y(torch.maximum),
    "minimum": _of_x_and_y(torch.minimum),
    "equal": _of_x_and_y(torch.eq),
    "not_equal": _of_x_and_y(torch.ne),
    "greater": _of_x_and_y(torch.gt),
    "greater_equal": _of_x_and_y(torch.ge),
    "less": _of_x_and_y(torch.lt),
    "less_equal": _of_x_and_y(torch.le),
    "logical_and": _of_x_and_y(torch.logical_and),
    "logical_or": _of_x_and_y(torch.logical_or),
    "logical_xor": _of_x_and_y(torch.logical_xor),
    "select": select,
}
