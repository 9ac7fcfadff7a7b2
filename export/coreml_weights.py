# SPDX-License-Identifier: Apache-2.0
"""Whether the weights of a package are those of the reference."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping

import numpy as np

from vitedge.errors import CheckFailed
from vitedge.mlprogram.blobs import Array
from vitedge.mlprogram.program import Program

SMALLEST = 16
"""Constants with fewer values are shapes, axes and scales that the lowering makes itself."""
_TOLERANCE = {np.dtype(np.float32): 2e-6, np.dtype(np.float16): 1e-3}
"""Of a weight that the lowering computed from others, relative to its largest value."""


def compare_weights(program: Program, weights: Mapping[str, Array]) -> str:
    """Finds every constant of a package among the weights of the reference, and every weight among the constants.

    Weights are compared value by value, in fp16 after rounding to nearest; those that the lowering
    computed from others (a batch normalization folded into its convolution) within a few roundings.

    Args:
        program: the ML Program.
        weights: name to value, float32, as the image meets them.

    Returns:
        What was compared.

    Raises:
        CheckFailed: a constant or a weight without its counterpart.
    """
    wanted = {name: value for name, value in weights.items() if value.size >= SMALLEST}
    exact: dict[bytes, list[str]] = defaultdict(list)
    for name, value in wanted.items():
        exact[_key(value)].append(name)
        exact[_key(value.astype(np.float16))].append(name)
    missing, equal, close = set(wanted), 0, 0
    for name, value in numbers(program):
        if value.dtype.kind != "f" or value.size < SMALLEST or _is_filler(value):
            continue
        found = exact.get(_key(value))
        equal, close = (equal + 1, close) if found else (equal, close + 1)
        found = found or _closest(value, wanted)
        if not found:
            raise CheckFailed(f"constant {name} of shape {value.shape} is no weight of the reference")
        missing.difference_update(found)
    missing -= {name for name in missing if _is_filler(wanted[name])}
    if missing:
        raise CheckFailed(f"no constant of the package holds {', '.join(sorted(missing)[:3])} of the reference")
    return f"{equal} weights equal to the reference's, {close} folded from them within rounding"


def numbers(program: Program) -> Iterator[tuple[str, Array]]:
    """Name and value of every numeric constant."""
    for name, literal in program.constants():
        if literal.type.shape is not None and literal.type.dtype not in ("string", "bool"):
            yield name, literal.decode()


def _is_filler(value: Array) -> bool:
    """One value all over: coremltools adds such biases and statistics, and drops multiplications by one."""
    return bool((value == value.flat[0]).all())


def _key(value: Array) -> bytes:
    return value.dtype.char.encode() + hashlib.blake2b(np.ascontiguousarray(value).data, digest_size=16).digest()


def _closest(value: Array, wanted: dict[str, Array]) -> list[str]:
    tolerance = _TOLERANCE[value.dtype]
    flat = value.reshape(-1).astype(np.float32)
    for name, candidate in wanted.items():
        if candidate.size != flat.size:
            continue
        scale = float(np.abs(candidate).max()) or 1.0
        if float(np.abs(candidate.reshape(-1) - flat).max()) <= tolerance * scale:
            return [name]
    return []
