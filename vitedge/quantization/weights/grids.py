# SPDX-License-Identifier: Apache-2.0
"""Which real numbers a weight may become: one scale a channel, or one a block of a channel.

A scale that clips nothing wastes levels on a few large weights. The search takes the scale of least squared error,
weighted by the mean square of the input that a weight is multiplied with (the diagonal of the layer's Hessian): first
among fractions of the widest one, then by turns, as for a Lloyd quantizer (Lloyd 1982, "Least squares quantization in
PCM"): integers are the nearest for the scale, the scale is the least-squares one for the integers. No turn can raise
the error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from vitedge.quantization.plan import ENDS, QuantizationParameters

SMALLEST_SCALE = 2.0**-40
"""Of an empty channel: its reciprocal and its product with an input's scale are still normal float32 numbers."""
FRACTIONS = {"int8": (1.0, 0.96, 0.92, 0.88, 0.84, 0.8), "int4": tuple(1.02 - 0.04 * step for step in range(16))}
"""Kind of integers to the parts of the widest range that the search tries."""
TURNS = 3


@dataclass(frozen=True)
class GridSettings:
    """The kind of grid that is wanted."""

    dtype: Literal["int8", "int4"] = "int8"
    block: int | None = None
    """Consecutive elements of a row that share a scale; None for one scale a channel."""
    symmetric: bool = True
    """Whether the zero point is zero."""
    search: bool = True
    """Whether the scale is searched for; otherwise no weight is clipped."""


def fit_block(elements: int, block: int, smallest: int = 16) -> int | None:
    """The largest power of two, at most the block wanted, that divides a row; None where one scale a channel remains.

    Core ML and PyTorch's grouped operators take whole blocks only, MatMulNBits of ONNX Runtime powers of two from 16.
    """
    while block >= smallest:
        if elements % block == 0:
            return block
        block //= 2
    return None


def widest_grid(weight: Tensor, settings: GridSettings, fraction: float = 1.0) -> QuantizationParameters:
    """The grid that reaches a fraction of the range of every channel or block; nothing is searched.

    Args:
        weight: ``(channels, elements)``, float32.
        settings: the kind of grid.
        fraction: 1 to clip nothing.
    """
    return _grid(_widest(_in_blocks(weight, settings.block), settings, fraction), settings)


def choose_grid(weight: Tensor, settings: GridSettings, importance: Tensor | None = None) -> QuantizationParameters:
    """The grid of a weight.

    Args:
        weight: ``(channels, elements)``, float32.
        settings: the kind of grid.
        importance: ``(channels or 1, elements)``, not negative: how much a squared error counts; None: all alike.

    Returns:
        Scales ``(channels,)``, or ``(channels, blocks)`` where there is a block size; the last block may be short.
    """
    blocks = _in_blocks(weight, settings.block)
    scale, zero_point = _widest(blocks, settings)
    if settings.search:
        weights = torch.ones_like(weight[:1]) if importance is None else importance.to(weight.dtype)
        scale, zero_point = _search(blocks, _in_blocks(weights, settings.block), (scale, zero_point), settings)
    return _grid((scale, zero_point), settings)


def per_element(grid: QuantizationParameters, matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and zero point of every element of a ``(channels, elements)`` weight, float32."""
    scale, zero_point = grid.scale.reshape(matrix.shape[0], -1), grid.zero_point.reshape(matrix.shape[0], -1)
    if grid.block is not None:
        scale, zero_point = (
            part.repeat_interleave(grid.block, dim=1)[:, : matrix.shape[1]] for part in (scale, zero_point)
        )
    return scale.expand_as(matrix), zero_point.to(torch.float32).expand_as(matrix)


def _grid(found: tuple[Tensor, Tensor], settings: GridSettings) -> QuantizationParameters:
    scale, zero_point = (part.squeeze(2) for part in found)
    if settings.block is None:
        scale, zero_point = scale.squeeze(1), zero_point.squeeze(1)
    return QuantizationParameters(settings.dtype, scale, zero_point.to(torch.int32), 0, settings.block)


def _in_blocks(matrix: Tensor, block: int | None) -> Tensor:
    """``(channels, blocks, elements of a block)``; the last block is filled with zeros, which change nothing."""
    if block is None:
        return matrix.unsqueeze(1)
    return functional.pad(matrix, (0, -matrix.shape[1] % block)).reshape(matrix.shape[0], -1, block)


def _widest(blocks: Tensor, settings: GridSettings, fraction: float = 1.0) -> tuple[Tensor, Tensor]:
    """Scales and zero points ``(channels, blocks, 1)`` that keep a fraction of every block's range from clipping."""
    low, high = ENDS[settings.dtype]
    least = blocks.amin(dim=2, keepdim=True).clamp_max(0) * fraction
    most = blocks.amax(dim=2, keepdim=True).clamp_min(0) * fraction
    if settings.symmetric:
        scale = torch.maximum(most / high, least / low)
        return scale.clamp_min(SMALLEST_SCALE), torch.zeros_like(scale)
    scale = ((most - least) / (high - low)).clamp_min(SMALLEST_SCALE)
    return scale, torch.clamp(torch.round(low - least / scale), low, high)


def _search(
    blocks: Tensor, importance: Tensor, widest: tuple[Tensor, Tensor], settings: GridSettings
) -> tuple[Tensor, Tensor]:
    ends = ENDS[settings.dtype]
    best = widest
    least, levels = _judge(blocks, importance, best, ends)
    for fraction in FRACTIONS[settings.dtype]:
        tried = _widest(blocks, settings, fraction)
        error, found = _judge(blocks, importance, tried, ends)
        best, least, levels = _keep((best, least, levels), (tried, error, found))
    for _ in range(TURNS):
        fitted = (importance * blocks * levels).sum(dim=2, keepdim=True)
        scale = fitted / (importance * levels.square()).sum(dim=2, keepdim=True)
        usable = torch.isfinite(scale) & (scale >= SMALLEST_SCALE)
        tried = (torch.where(usable, scale, best[0]), best[1])
        error, found = _judge(blocks, importance, tried, ends)
        best, least, levels = _keep((best, least, levels), (tried, error, found))
    return best


_Choice = tuple[tuple[Tensor, Tensor], Tensor, Tensor]
"""Scale and zero point; their error; the integers less the zero point."""


def _keep(best: _Choice, tried: _Choice) -> _Choice:
    """Block by block the choice of the smaller error."""
    better = tried[1] < best[1]
    scale, zero_point = (torch.where(better, new, old) for new, old in zip(tried[0], best[0], strict=True))
    return (scale, zero_point), torch.where(better, tried[1], best[1]), torch.where(better, tried[2], best[2])


def _judge(
    blocks: Tensor, importance: Tensor, grid: tuple[Tensor, Tensor], ends: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Weighted squared error of every block, and its integers less the zero point."""
    scale, zero_point = grid
    levels = torch.round(blocks * (1.0 / scale)).add_(zero_point).clamp_(*ends).sub_(zero_point)
    error = (levels * scale).sub_(blocks).square_().mul_(importance).sum(dim=2, keepdim=True)
    return error, levels
