# SPDX-License-Identifier: Apache-2.0
"""Relative position biases of windowed and of global attention at another window size."""

from __future__ import annotations

from timm.layers.pos_embed_rel import resize_rel_pos_bias_table
from torch import Tensor


def resample_biases(table: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """A table of relative position biases for another window, as timm resamples it.

    Args:
        table: ``((2 height - 1) * (2 width - 1) + extra, heads)``; the extra rows, of a class token, stay as they are.
        old: height and width of the window that the table is for.
        new: height and width of the window that it is wanted for.

    Returns:
        The table with the rows of the new window and the same type; itself where the window stays.
    """
    if old == new:
        return table
    extra = table.shape[0] - rows(old)
    resampled: Tensor = resize_rel_pos_bias_table(
        table, new_window_size=new, new_bias_shape=(rows(new) + extra, table.shape[1]), old_window_size=old
    )
    return resampled


def rows(window: tuple[int, int]) -> int:
    """How many distances there are between two positions of a window."""
    return (2 * window[0] - 1) * (2 * window[1] - 1)
