# SPDX-License-Identifier: Apache-2.0
"""The quantization parameters of a weight: one scale a channel, or one a block of a channel.

A scale that clips nothing wastes levels on a few large weights. The search takes the scale of least squared error,
weighted by the mean square of the input that a weight is multiplied with (the diagonal of the layer's Hessian): first
among fractions of the widest one, then alternately, as for a Lloyd quantizer (Lloyd 1982, "Least squares quantization
in PCM"): integers are the nearest for the scale, the scale is the least-squares one for the integers. No iteration can
raise the error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from vitedge.quantization.parameters import ENDS, QuantizationParameters

SMALLEST_SCALE = 2.0**-40
"""Scale of a channel of zeros; its reciprocal and its product with an input's scale are normal float32 numbers."""
FRACTIONS = {"int8": (1.0, 0.96, 0.92, 0.88, 0.84, 0.8), "int4": tuple(1.02 - 0.04 * step for step in range(16))}
"""Integer type to the fractions of the widest range that the search tries."""
ITERATIONS = 3
"""Number of alternations between integers and scale."""


@dataclass(frozen=True)
class WeightSettings:
    """Settings of the quantization parameters of a weight."""

    dtype: Literal["int8", "int4"] = "int8"
    """Integer type."""
    block: int | None = None
    """Number of consecutive elements of a row that share a scale; None for one scale a channel."""
    symmetric: bool = True
    """Whether the zero point is zero."""
    search: bool = True
    """Whether the scale is searched for; otherwise no weight is clipped."""
    smallest_scale: float = SMALLEST_SCALE
    """The scale of channels whose weights ask for a smaller one."""


def fit_block(elements: int, block: int, smallest: int = 16) -> int | None:
    """Returns the largest block size that divides a row; None where none does and a channel has one scale.

    Core ML and PyTorch's grouped operators take whole blocks only, MatMulNBits of ONNX Runtime powers of two from 16.

    Args:
        elements: of a row.
        block: the largest block size allowed, a power of two; halved until it fits.
        smallest: the smallest block size allowed.
    """
    while block >= smallest:
        if elements % block == 0:
            return block
        block //= 2
    return None


def widest_parameters(weight: Tensor, settings: WeightSettings, fraction: float = 1.0) -> QuantizationParameters:
    """Returns the parameters that cover a fraction of the range of every channel or block, without a search.

    Args:
        weight: ``(channels, elements)``, float32.
        settings: of the quantization parameters.
        fraction: of the range; 1 clips nothing.
    """
    return _parameters(_widest(_in_blocks(weight, settings.block), settings, fraction), settings)


def choose_parameters(
    weight: Tensor, settings: WeightSettings, importance: Tensor | None = None
) -> QuantizationParameters:
    """Returns the quantization parameters of a weight.

    Args:
        weight: ``(channels, elements)``, float32.
        settings: of the quantization parameters.
        importance: weight of each squared error, ``(channels or 1, elements)``, not negative; None weighs them equally.

    Returns:
        Scales ``(channels,)``, or ``(channels, blocks)`` where there is a block size; the last block may be short.
    """
    blocks = _in_blocks(weight, settings.block)
    scale, zero_point = _widest(blocks, settings)
    if settings.search:
        weights = torch.ones_like(weight[:1]) if importance is None else importance.to(weight.dtype)
        scale, zero_point = _search(blocks, _in_blocks(weights, settings.block), (scale, zero_point), settings)
    return _parameters((scale, zero_point), settings)


def per_element(qparams: QuantizationParameters, matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Returns scale and zero point of every element of a ``(channels, elements)`` weight, float32."""
    scale, zero_point = qparams.scale.reshape(matrix.shape[0], -1), qparams.zero_point.reshape(matrix.shape[0], -1)
    if qparams.block is not None:
        scale, zero_point = (
            part.repeat_interleave(qparams.block, dim=1)[:, : matrix.shape[1]] for part in (scale, zero_point)
        )
    return scale.expand_as(matrix), zero_point.to(torch.float32).expand_as(matrix)


def _parameters(found: tuple[Tensor, Tensor], settings: WeightSettings) -> QuantizationParameters:
    scale, zero_point = (part.squeeze(2) for part in found)
    if settings.block is None:
        scale, zero_point = scale.squeeze(1), zero_point.squeeze(1)
    return QuantizationParameters(settings.dtype, scale, zero_point.to(torch.int32), 0, settings.block)


def _in_blocks(matrix: Tensor, block: int | None) -> Tensor:
    """Reshapes to ``(channels, blocks, elements of a block)``; zeros, which change nothing, fill the last block."""
    if block is None:
        return matrix.unsqueeze(1)
    return functional.pad(matrix, (0, -matrix.shape[1] % block)).reshape(matrix.shape[0], -1, block)


def _widest(blocks: Tensor, settings: WeightSettings, fraction: float = 1.0) -> tuple[Tensor, Tensor]:
    """Returns scales and zero points ``(channels, blocks, 1)`` that cover a fraction of every block's range."""
    low, high = ENDS[settings.dtype]
    least = blocks.amin(dim=2, keepdim=True).clamp_max(0) * fraction
    most = blocks.amax(dim=2, keepdim=True).clamp_min(0) * fraction
    if settings.symmetric:
        scale = torch.maximum(most / high, least / low)
        return scale.clamp_min(settings.smallest_scale), torch.zeros_like(scale)
    scale = ((most - least) / (high - low)).clamp_min(settings.smallest_scale)
    return scale, torch.clamp(torch.round(low - least / scale), low, high)


def _search(
    blocks: Tensor, importance: Tensor, widest: tuple[Tensor, Tensor], settings: WeightSettings
) -> tuple[Tensor, Tensor]:
    ends = ENDS[settings.dtype]
    best = widest
    least, levels = _block_errors(blocks, importance, best, ends)
    for fraction in FRACTIONS[settings.dtype]:
        tried = _widest(blocks, settings, fraction)
        error, found = _block_errors(blocks, importance, tried, ends)
        best, least, levels = _better((best, least, levels), (tried, error, found))
    for _ in range(ITERATIONS):
        fitted = (importance * blocks * levels).sum(dim=2, keepdim=True)
        scale = fitted / (importance * levels.square()).sum(dim=2, keepdim=True)
        usable = torch.isfinite(scale) & (scale >= settings.smallest_scale)
        tried = (torch.where(usable, scale, best[0]), best[1])
        error, found = _block_errors(blocks, importance, tried, ends)
        best, least, levels = _better((best, least, levels), (tried, error, found))
    return best


_Choice = tuple[tuple[Tensor, Tensor], Tensor, Tensor]
"""Scale and zero point; their error; the integers less the zero point."""


def _better(best: _Choice, tried: _Choice) -> _Choice:
    """Returns for each block the choice with the smaller error."""
    better = tried[1] < best[1]
    scale, zero_point = (torch.where(better, new, old) for new, old in zip(tried[0], best[0], strict=True))
    return (scale, zero_point), torch.where(better, tried[1], best[1]), torch.where(better, tried[2], best[2])


def _block_errors(
    blocks: Tensor, importance: Tensor, qparams: tuple[Tensor, Tensor], ends: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Returns the weighted squared error of every block, and its integers less the zero point."""
    scale, zero_point = qparams
    levels = torch.round(blocks * (1.0 / scale)).add_(zero_point).clamp_(*ends).sub_(zero_point)
    error = (levels * scale).sub_(blocks).square_().mul_(importance).sum(dim=2, keepdim=True)
    return error, levels
