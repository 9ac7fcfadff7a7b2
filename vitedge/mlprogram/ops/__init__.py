# SPDX-License-Identifier: Apache-2.0
"""The operations of ML Programs: one function each, in the one table `OPS`.

To add one, write a function of MIL's parameters (see `vitedge.mlprogram.ops.arguments`) in the module that it belongs
to, and name it in that module's ``OPS``.
"""

from __future__ import annotations

from types import ModuleType

from vitedge.mlprogram.ops import (
    activation,
    classification,
    compression,
    convolution,
    elementwise,
    indexing,
    linear,
    normalization,
    quantization,
    reduction,
    resampling,
    shape,
)
from vitedge.mlprogram.ops.arguments import Function

ARITHMETIC: tuple[ModuleType, ...] = (
    activation,
    classification,
    convolution,
    elementwise,
    linear,
    normalization,
    quantization,
    reduction,
    resampling,
)
MOVEMENT: tuple[ModuleType, ...] = (compression, indexing, shape)
"""Their functions compute nothing, or in the types that they get: float16 is not widened for them."""

OPS: dict[str, Function] = {name: call for module in (*ARITHMETIC, *MOVEMENT) for name, call in module.OPS.items()}
MOVES = frozenset(name for module in MOVEMENT for name in module.OPS)
