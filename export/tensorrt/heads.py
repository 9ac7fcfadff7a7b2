# SPDX-License-Identifier: Apache-2.0
"""The sizes of heads that TensorRT fuses into one attention, from its developer's guide ("fused attention")."""

from __future__ import annotations

_HALF, _MULTIPLE = (16, 256), 8
_INTEGERS = (16, 32, 64)


def fuses(width: int, *, integers: bool = False) -> bool:
    """Returns whether the guide lists heads of so many channels as fused.

    Args:
        width: channels of one head.
        integers: whether both products of the attention are of int8, and not in half precision.
    """
    if integers:
        return width in _INTEGERS
    return _HALF[0] <= width <= _HALF[1] and width % _MULTIPLE == 0


def padded_width(width: int, *, integers: bool = False) -> int:
    """Returns the fewest channels, ``width`` or more, that are fused; ``width`` where none are."""
    return next((wider for wider in range(width, _HALF[1] + 1) if fuses(wider, integers=integers)), width)
