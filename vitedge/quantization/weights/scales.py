# SPDX-License-Identifier: Apache-2.0
"""Fits scales to given integers: a least-squares problem with one solution for each output channel.

A row of the weight is ``Z s``, with a column of ``Z`` for each block: its integers less the zero point, and zeros
elsewhere. ``(t - Z s)ᵀ H (t - Z s)`` is least where ``(Zᵀ H Z) s = Zᵀ H t``, the normal equations of the output error.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from vitedge.quantization.parameters import QuantizationParameters

BOUNDS = (0.5, 2.0)
"""Smallest and largest ratio of a scale to the one before: blocks with equal inputs have no unique solution."""
RIDGE = 1e-6
"""Weight of the previous scales, relative to the mean of the diagonal: a block of zeros determines no scale."""


def fit_scales(
    integers: Tensor, qparams: QuantizationParameters, target: Tensor, hessian: Tensor
) -> QuantizationParameters:
    """Returns parameters with the scales that bring integers nearest to a weight, in the metric of the Hessian.

    Args:
        integers: ``(groups, channels, elements)``.
        qparams: with which the integers were found; zero points stay as they are.
        target: the weight to approximate, ``(groups, channels, elements)``.
        hessian: ``(groups, elements, elements)``, float64.
    """
    groups, channels, elements = target.shape
    block = qparams.block or elements
    old = qparams.scale.reshape(groups, channels, -1).to(torch.float64)
    zero_point = qparams.zero_point.reshape(groups, channels, -1).repeat_interleave(block, dim=2)[:, :, :elements]
    levels = (integers - zero_point).to(torch.float64)
    normal = levels.new_zeros(*old.shape, old.shape[2])
    for index, start in enumerate(range(0, elements, block)):
        # The matrix is symmetric: its columns before this block were computed with the blocks before.
        product = levels[:, :, start : start + block] @ hessian[:, start : start + block, start:]
        normal[:, :, index:, index] = _sum_blocks(product.mul_(levels[:, :, start:]), block)
    normal = normal + normal.tril(-1).transpose(2, 3)
    right = _sum_blocks(levels * (target.to(torch.float64) @ hessian), block)
    pull = RIDGE * torch.diagonal(normal, dim1=2, dim2=3).mean(dim=2, keepdim=True)
    pull = torch.where(pull > 0, pull, torch.ones_like(pull))
    normal = normal + pull.unsqueeze(3) * torch.eye(old.shape[2], dtype=normal.dtype)
    fitted = torch.linalg.solve(normal, (right + pull * old).unsqueeze(3)).squeeze(3)
    usable = (fitted > BOUNDS[0] * old) & (fitted < BOUNDS[1] * old)
    scale = torch.where(usable, fitted, old).to(torch.float32).reshape(qparams.scale.shape)
    return replace(qparams, scale=scale)


def _sum_blocks(values: Tensor, block: int) -> Tensor:
    """Sums ``(groups, channels, elements)`` to ``(groups, channels, blocks)``; the last block may be short."""
    padded = functional.pad(values, (0, -values.shape[2] % block))
    return padded.reshape(*values.shape[:2], -1, block).sum(dim=3)
