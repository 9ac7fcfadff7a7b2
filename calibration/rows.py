# SPDX-License-Identifier: Apache-2.0
"""Linear layers and convolutions as products of matrices: ``groups`` products ``y = x Wᵀ`` over rows ``x``."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Window:
    """The window of a convolution over its input; a pair is ``(vertical, horizontal)``."""

    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1


def linear_rows(inputs: Tensor) -> Tensor:
    """Returns the rows that a Linear layer multiplies.

    Args:
        inputs: ``(…, elements)``.

    Returns:
        ``(1, rows, elements)``.
    """
    return inputs.reshape(1, -1, inputs.shape[-1])


def convolution_rows(inputs: Tensor, window: Window) -> Tensor:
    """Returns the rows that a convolution multiplies: im2col, for each group its own.

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
