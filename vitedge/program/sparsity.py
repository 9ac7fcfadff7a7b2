# SPDX-License-Identifier: Apache-2.0
"""The 2:4 pattern: of every four weights that a product sums over, one after the other, two are zero.

Sparse tensor cores (SM 8.0 and later) multiply such weights. Needs no PyTorch.
"""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

GROUP, ZEROS = 4, 2
"""Weights of a group, and how many of them are zero at least."""


def is_two_of_four(weight: NDArray[Any]) -> bool:
    """Returns whether each group of four weights holds at least two zeros.

    Args:
        weight: of any number type; its last axis is the one that the product sums over.
    """
    if weight.shape[-1] % GROUP or not weight.size:
        return False
    first = weight[(0,) * (weight.ndim - 1)]  # a dense weight is told by it, and not copied
    return _has_zeros(first) and _has_zeros(weight)


def _has_zeros(weight: NDArray[Any]) -> bool:
    zeros = (weight.reshape(-1, GROUP) == 0).sum(axis=1)
    return bool((zeros >= ZEROS).all())
