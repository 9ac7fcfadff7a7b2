# SPDX-License-Identifier: Apache-2.0
"""Learned position embeddings at another grid size.

The embedding is resampled once, when the reference is rebuilt, so that no Resize reaches the exported graph.
"""

from __future__ import annotations

from enum import Enum

import torch
from torch import Tensor
from torch.nn import functional

from vitedge.errors import ImpossibleSize


class Resampling(Enum):
    """How a library resamples position embeddings; bicubic in all of them."""

    ANTIALIASED = "timm, and DINOv2 with registers"
    PLAIN = "transformers' DINOv2 without registers"
    OFFSET = "Meta's DINOv2 without registers, which scales by (edge + 0.1) / old edge"


_OFFSET = 0.1
"""``interpolate_offset`` of DINOv2's hub models (facebookresearch/dinov2, models/vision_transformer.py)."""


def resize_grid(embedding: Tensor, size: tuple[int, int], resampling: Resampling = Resampling.ANTIALIASED) -> Tensor:
    """Resamples a position embedding to another grid, bicubic and computed in float32.

    Args:
        embedding: ``(1, channels, height, width)`` of any floating type.
        size: height and width of the new grid.
        resampling: the code of the library that the model comes from.

    Returns:
        ``(1, channels, *size)`` of the same type; the embedding itself where the size is already right.
    """
    if tuple(embedding.shape[2:]) == tuple(size):
        return embedding
    if resampling is Resampling.OFFSET:
        scales = tuple((new + _OFFSET) / old for new, old in zip(size, embedding.shape[2:], strict=True))
        resized = functional.interpolate(embedding.float(), scale_factor=scales, mode="bicubic")
    else:
        antialias = resampling is Resampling.ANTIALIASED
        resized = functional.interpolate(embedding.float(), size=size, mode="bicubic", antialias=antialias)
    return resized.to(embedding.dtype)


def resize_tokens(
    embedding: Tensor,
    old: tuple[int, int],
    new: tuple[int, int],
    prefix: int,
    resampling: Resampling = Resampling.ANTIALIASED,
) -> Tensor:
    """Resamples a flat position embedding to another grid, and keeps the entries of its prefix tokens.

    Args:
        embedding: ``(1, prefix + old height * old width, width)``.
        old: height and width of the grid it was trained on.
        new: height and width of the grid it is wanted for.
        prefix: number of leading entries that belong to class, distillation or register tokens.
        resampling: the code of the library that the model comes from.

    Returns:
        ``(1, prefix + new height * new width, width)``.
    """
    if old == new:
        return embedding
    grid = embedding[:, prefix:].reshape(1, *old, -1).permute(0, 3, 1, 2)
    resized = resize_grid(grid, new, resampling).permute(0, 2, 3, 1).reshape(1, new[0] * new[1], -1)
    return torch.cat([embedding[:, :prefix], resized], dim=1)


def check_multiple(image_size: tuple[int, int], step: int, what: str) -> None:
    """Refuses an image size that is not a multiple of a step in both directions.

    Args:
        image_size: height and width in pixels.
        step: pixels that one position covers.
        what: the step's name in the message, such as ``patch``.

    Raises:
        ImpossibleSize: naming the nearest sizes that work.
    """
    if all(edge >= step and edge % step == 0 for edge in image_size):
        return
    below = tuple(max(step, edge // step * step) for edge in image_size)
    above = tuple(max(step, -(-edge // step) * step) for edge in image_size)
    nearest = " or ".join(dict.fromkeys(_written(size) for size in (below, above)))
    raise ImpossibleSize(
        f"An image of {_written(image_size)} pixels does not divide by the {what} of {step} pixels; "
        f"what works nearest to it is {nearest} (--image-size)."
    )


def _written(size: tuple[int, ...]) -> str:
    return "x".join(str(edge) for edge in size)
