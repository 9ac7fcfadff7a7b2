# SPDX-License-Identifier: Apache-2.0
"""The records of pruning. Frozen dataclasses without behaviour, like `vitedge.records`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Recovery:
    """What a pruned model learned from the dense one, on images without labels."""

    images: int
    """Number of images that it learned from."""
    image_source: str
    """Folder, list or array, or ``synthetic, seed N``."""
    held_out: int
    """Number of further images, on which the best weights were chosen."""
    epochs: int
    steps: int
    """Steps of the optimizer."""
    learning_rate: float
    """The highest one, after the warm-up."""
    losses: tuple[float, ...]
    """The loss while learning, the mean of equal parts of the steps, oldest first."""
    before: float
    """Loss on the images that were held out, before the first step."""
    after: float
    """The same, of the weights that were kept; never above ``before``."""
    best_step: int
    """The step after which the weights were kept; 0: they are as they were before."""
    masked: int
    """Number of layers whose zeros stayed zeros."""
    seconds: float
    """Wall time, that of runs that were interrupted included."""
    device: str
    """``cpu``, or the name of the GPU."""
    note: str = ""
    """What went wrong, one sentence, or empty."""
