# SPDX-License-Identifier: Apache-2.0
"""Linear layers and convolutions as products of matrices: ``groups`` products ``y = x Wᵀ`` over rows ``x``."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Window:
    """How a convolution slides over its input; a pair is ``(vertical, horizontal)``."""

    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1


def linear_rows(inputs: Tensor) -> Tensor:
    """The rows that a Linear multiplies.

    Args:
        inputs: ``(…, elements)``.

    Returns:
        ``(1, rows, elements)``.
    """
    return inputs.reshape(1, -1, inputs.shape[-1])


def convolution_rows(inputs: Tensor, window: Window) -> Tensor:
    """The rows that a convolution multiplies: im2col, for each group its own.

    Args:
        inputs: ``(images, channels, height, width)``.
        window: of the convolution.

    Returns:
        ``(groups, images · positions, channels / groups · kernel height · kernel width)``, elements in the order of the
        flattened weight.
    """
    images, channels = inputs.shape[:2]
    taps = window.kernel[0] * window.kernel[1]
    columns = functional.unfold(inputs, window.kernel, window.dilation, window.padding, window.stride)
    split = columns.reshape(images, window.groups, channels // window.groups * taps, -1)
    return split.permute(1, 0, 3, 2).reshape(window.groups, -1, split.shape[2])


def output_rows(outputs: Tensor, groups: int | None = None) -> Tensor:
    """Outputs of a layer in the order of its rows.

    Args:
        outputs: ``(…, channels)`` of a Linear; ``(images, channels, height, width)`` of a convolution.
        groups: of the convolution; None for a Linear.

    Returns:
        ``(groups, rows, channels / groups)``.
    """
    if groups is None:
        return linear_rows(outputs)
    images, channels = outputs.shape[:2]
    split = outputs.reshape(images, groups, channels // groups, -1)
    return split.permute(1, 0, 3, 2).reshape(groups, -1, channels // groups)


def thin(rows: Tensor, limit: int) -> Tensor:
    """At most so many rows, evenly spread: neighbouring tokens and windows say nearly the same.

    Args:
        rows: ``(groups, rows, elements)``; all tensors of one length lose the same rows.
        limit: at least 1.
    """
    count = rows.shape[1]
    if count <= limit:
        return rows
    return rows[:, torch.arange(limit) * count // limit]
