# SPDX-License-Identifier: Apache-2.0
"""The scales of integers that are decided: a least-squares problem with one solution for each output channel.

A row of the weight is ``Z s``, with a column of ``Z`` for each block: its integers less the zero point, and zeros
elsewhere. ``(t - Z s)ᵀ H (t - Z s)`` is least where ``(Zᵀ H Z) s = Zᵀ H t``, the normal equations of the output error.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from vitedge.quantization.plan import QuantizationParameters

BOUNDS = (0.5, 2.0)
"""How far a scale may move: blocks whose inputs say the same could trade their shares without end."""
RIDGE = 1e-6
"""Pull towards the scales that were, relative to the mean of the diagonal: a block of zeros has none of its own."""


def fit_scales(
    integers: Tensor, grid: QuantizationParameters, target: Tensor, hessian: Tensor
) -> QuantizationParameters:
    """The scales with which these integers are nearest to the weight wanted, in the metric of the Hessian.

    Args:
        integers: ``(groups, channels, elements)``.
        grid: that they were found on; its zero points stay.
        target: the weight wanted, ``(groups, channels, elements)``.
        hessian: ``(groups, elements, elements)``, float64.
    """
    groups, channels, elements = target.shape
    block = grid.block or elements
    old = grid.scale.reshape(groups, channels, -1).to(torch.float64)
    zero_point = grid.zero_point.reshape(groups, channels, -1).repeat_interleave(block, dim=2)[:, :, :elements]
    levels = (integers - zero_point).to(torch.float64)
    normal = levels.new_zeros(*old.shape, old.shape[2])
    for index, start in enumerate(range(0, elements, block)):
        # Symmetric: what is before the block was found with the blocks before.
        product = levels[:, :, start : start + block] @ hessian[:, start : start + block, start:]
        normal[:, :, index:, index] = _sum_blocks(product.mul_(levels[:, :, start:]), block)
    normal = normal + normal.tril(-1).transpose(2, 3)
    right = _sum_blocks(levels * (target.to(torch.float64) @ hessian), block)
    pull = RIDGE * torch.diagonal(normal, dim1=2, dim2=3).mean(dim=2, keepdim=True)
    pull = torch.where(pull > 0, pull, torch.ones_like(pull))
    normal = normal + pull.unsqueeze(3) * torch.eye(old.shape[2], dtype=normal.dtype)
    fitted = torch.linalg.solve(normal, (right + pull * old).unsqueeze(3)).squeeze(3)
    usable = (fitted > BOUNDS[0] * old) & (fitted < BOUNDS[1] * old)
    scale = torch.where(usable, fitted, old).to(torch.float32).reshape(grid.scale.shape)
    return replace(grid, scale=scale)


def _sum_blocks(values: Tensor, block: int) -> Tensor:
    """``(groups, channels, elements)`` to ``(groups, channels, blocks)``; the last block may be short."""
    padded = functional.pad(values, (0, -values.shape[2] % block))
    return padded.reshape(*values.shape[:2], -1, block).sum(dim=3)
