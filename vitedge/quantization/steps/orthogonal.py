# SPDX-License-Identifier: Apache-2.0
"""Orthogonal matrices that spread an outlier channel over all, and calibration statistics rotated by them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from vitedge.calibration.observations import Stats


def hadamard_like(size: int, generator: torch.Generator) -> Tensor:
    """Returns a random orthogonal matrix, all of whose entries have one magnitude if the size is a power of two.

    Sylvester's Hadamard matrix of the size's largest power of two, times a random orthogonal one of the rest
    (Kronecker), with random signs of the rows: the random Hadamard transform of arXiv:2404.00456, section 3.

    Args:
        size: at least 1.
        generator: decides signs and the part that is not a power of two.

    Returns:
        ``(size, size)`` float64.
    """
    power = size & -size
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while matrix.shape[0] < power:
        matrix = torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64), matrix)
    matrix = torch.kron(matrix / power**0.5, _random(size // power, generator))
    signs = torch.randint(0, 2, (size, 1), generator=generator).double() * 2 - 1
    return matrix * signs


def mean_preserving(size: int, generator: torch.Generator) -> Tensor:
    """Returns a random orthogonal ``Q`` with ``Q 1 = 1``, under which a row keeps its mean and its variance.

    ``Q = U diag(1, R) Uᵀ`` with ``1 / sqrt(size)`` as the first column of the orthogonal ``U``.

    Args:
        size: at least 2.
        generator: draws both factors.

    Returns:
        ``(size, size)`` float64.
    """
    basis = torch.randn(size, size, dtype=torch.float64, generator=generator)
    basis[:, 0] = 1
    basis = torch.linalg.qr(basis).Q
    inner = block_diagonal([torch.ones(1, 1, dtype=torch.float64), hadamard_like(size - 1, generator)])
    result: Tensor = basis @ inner @ basis.T
    return result


def block_diagonal(blocks: Iterable[Tensor]) -> Tensor:
    """Returns the block-diagonal matrix of these square matrices."""
    matrix: Tensor = torch.block_diag(*blocks)  # type: ignore[no-untyped-call]
    return matrix


def rotated(stats: Stats, matrix: Tensor, offset: Tensor | None = None) -> Stats:
    """Returns the statistics of ``(x - offset) matrix``, computed from the sampled rows of ``x``.

    Its extremes are those of the sample alone: the extremes of all rows say nothing of the rotated ones.

    Args:
        stats: of ``x``, ``(rows, channels)``.
        matrix: ``(channels, channels)``.
        offset: ``(channels,)``; None for zero.
    """
    rows = stats.rows.double() if offset is None else stats.rows.double() - offset
    result = Stats()
    result.update(rows @ matrix)
    return result


def _random(size: int, generator: torch.Generator) -> Tensor:
    factor: Tensor = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=generator)).Q
    return factor.contiguous()
