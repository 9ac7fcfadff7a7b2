# SPDX-License-Identifier: Apache-2.0
"""What Python code has for images, as a source that the verbs take."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

from vitedge.errors import BadImages, BadRecipe
from vitedge.images.in_memory import collect

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    Images: TypeAlias = "str | os.PathLike[str] | NDArray[Any] | Tensor | Iterable[Any]"
    """A folder, list or array file, or ``synthetic``; an array or a tensor of images; or any iterable of pictures,
    arrays, tensors and paths, of pairs of these and their classes, or of batches of them."""


def as_images(
    images: Images | None, count: int | None, seed: int | None, *, normalized: bool, least: int = 2
) -> str | None:
    """Returns images as a recipe names them; those in memory are taken, once.

    Args:
        images: what a user names or holds; None was not said.
        count: how many are needed; None is all.
        seed: decides which are drawn; None is 0.
        normalized: whether arrays and tensors are the model's input.
        least: the fewest that say anything.

    Raises:
        BadImages: they hold too few images, something that is none, or values that could be misread.
        BadRecipe: ``normalized`` without arrays.
    """
    if images is None or isinstance(images, (str, os.PathLike)):
        if normalized:
            raise BadRecipe("normalized says that arrays are the model's input, and images is no array: leave it out.")
        return None if images is None else os.fspath(images)
    found = collect(images, count, seed or 0, normalized=normalized)
    if len(found.held) < least:
        raise BadImages(
            f"The {type(images).__name__} that was given as images hands out {len(found.held)} image: give at least "
            f"{least}, because with fewer nothing shows that the output depends on the image."
        )
    return found
