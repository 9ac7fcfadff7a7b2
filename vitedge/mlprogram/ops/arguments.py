# SPDX-License-Identifier: Apache-2.0
"""The arguments of an operation's function, and how they are read.

A function takes MIL's parameters by their MIL names. Numbers and bools, scalars included, arrive as tensors; strings as
``str``; lists of values as ``list``; what is not bound is left to the default of the function, which is MIL's. It
returns a tensor, or a tuple of them. The interpreter has widened float16 to float32 before an arithmetic function, and
rounds what it returns to the declared element type.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vitedge.errors import UnreadableArtifact
from vitedge.mlprogram.limits import LARGEST_VALUE

Function = Callable[..., Any]
Table = Mapping[str, Function]

STORAGE: Mapping[str, torch.dtype] = {
    "bool": torch.bool,
    "float16": torch.float16,
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float8_e4m3fn": torch.float8_e4m3fn,
    "float8_e5m2": torch.float8_e5m2,
    "int4": torch.int8,
    "int8": torch.int8,
    "int16": torch.int16,
    "int32": torch.int32,
    "int64": torch.int64,
    "uint1": torch.uint8,
    "uint2": torch.uint8,
    "uint3": torch.uint8,
    "uint4": torch.uint8,
    "uint6": torch.uint8,
    "uint8": torch.uint8,
    # PyTorch computes next to nothing in these: the next wider signed type holds them.
    "uint16": torch.int32,
    "uint32": torch.int64,
    "uint64": torch.int64,
}
"""Name of an element type to what its values are kept in."""
ALIASES: Mapping[str, str] = {"fp16": "float16", "fp32": "float32", "fp64": "float64", "double": "float64"}
"""Further names of element types in the ``dtype`` of MIL's operations."""


def ints(value: Tensor | None) -> tuple[int, ...]:
    """A vector or scalar of integers as Python's; nothing for what is not bound."""
    return () if value is None else tuple(value.reshape(-1).tolist())


def integer(value: Tensor | int) -> int:
    """A scalar integer."""
    return int(value)


def number(value: Tensor | float) -> float:
    """A scalar."""
    return float(value)


def flag(value: Tensor | bool) -> bool:  # noqa: FBT001  (MIL's own parameter)
    """A scalar bool."""
    return bool(value)


def dtype_of(name: str) -> torch.dtype:
    """Returns the element type that a ``dtype`` parameter names.

    Raises:
        UnreadableArtifact: there is none of that name.
    """
    try:
        return STORAGE[ALIASES.get(name, name)]
    except KeyError:
        raise UnreadableArtifact(f"There is no element type {name!r}.") from None


def allow(shape: Sequence[int]) -> tuple[int, ...]:
    """Returns the shape, unless a value of it would take all memory; for functions that make values of a given shape.

    Raises:
        UnreadableArtifact: it has more than `LARGEST_VALUE` elements, or a negative edge.
    """
    if any(edge < 0 for edge in shape) or math.prod(shape) > LARGEST_VALUE:
        raise UnreadableArtifact(f"A value of shape {tuple(shape)} is asked for, which no model has.")
    return tuple(shape)
