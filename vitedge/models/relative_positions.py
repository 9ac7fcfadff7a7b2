# SPDX-License-Identifier: Apache-2.0
"""Relative position biases of windowed and of global attention at another window size.

The rule is the one that BEiT (arXiv 2106.08254) was fine-tuned with at higher resolutions and that timm follows: the
distances of the old window are spread over the new one in a geometric progression, dense where they are short, and
biases between them are interpolated linearly. It is written out here because timm's own function indexes tensors in a
way that PyTorch is about to read differently.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_SMALLEST_RATIO, _LARGEST_RATIO, _TOLERANCE = 1.01, 1.5, 1e-6


def resample_biases(table: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Resamples a table of relative position biases for another window.

    Args:
        table: ``((2 height - 1) * (2 width - 1) + extra, heads)``; the extra rows, of a class token, stay as they are.
        old: height and width of the window that the table is for.
        new: height and width of the window that it is wanted for.

    Returns:
        The table with the rows of the new window and the same type; itself where the window stays.
    """
    if old == new:
        return table
    rows, columns = (2 * edge - 1 for edge in old)
    grid = table[: rows * columns].double().reshape(rows, columns, -1)
    vertical, horizontal = (
        torch.from_numpy(_weights(2 * source - 1, 2 * target - 1)) for source, target in zip(old, new, strict=True)
    )
    resampled = torch.einsum("ay,bx,abh->yxh", vertical, horizontal, grid).flatten(0, 1)
    return torch.cat([resampled.to(table.dtype), table[rows * columns :]])


def _weights(source: int, target: int) -> npt.NDArray[np.float64]:
    """Returns the weights ``(source, target)`` of each old distance along one axis in each new one."""
    reach = np.cumsum(_ratio(source // 2, target // 2) ** np.arange(source // 2))
    distances = np.concatenate([-reach[::-1], [0.0], reach])
    wanted = np.arange(target) - target // 2
    return np.stack([np.interp(wanted, distances, unit) for unit in np.eye(source)])


def _ratio(steps: int, reach: int) -> float:
    """Returns the ratio of the geometric progression of ``steps`` terms, the first 1, whose sum is ``reach``."""
    low, high = _SMALLEST_RATIO, _LARGEST_RATIO
    ratio = low
    while high - low > _TOLERANCE:
        ratio = (low + high) / 2
        if (1 - ratio**steps) / (1 - ratio) > reach:
            high = ratio
        else:
            low = ratio
    return ratio
