# SPDX-License-Identifier: Apache-2.0
"""The weight-standardized ResNet stem of hybrid ViTs (R50+ViT and its kin)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

_EPS = 1e-8
"""Epsilon that timm's hybrid ViTs add to the variance."""


def standardized(weight: Tensor) -> Tensor:
    """Standardizes a convolution's weight to mean 0 and variance 1 per output channel.

    The stem does so in every forward pass. Done once here, it leaves plain convolutions, and no batch norm in training
    mode reaches a graph. Doing it again changes no more than rounding. Weight Standardization:
    https://arxiv.org/abs/1903.10520v2, section 3.

    Args:
        weight: ``(out, in, height, width)`` of any floating type. The statistics are taken by the very operation of
            timm's forward pass, so that the result is the same to the bit.
    """
    rows = weight.float().reshape(1, weight.shape[0], -1)
    return functional.batch_norm(rows, None, None, training=True, eps=_EPS).reshape(weight.shape).to(weight.dtype)
