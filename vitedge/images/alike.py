# SPDX-License-Identifier: Apache-2.0
"""Images that are too few or too much alike to show anything about a model."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

FEW = 8
"""Different images below which figures are warned about."""


def count_different(images: NDArray[np.generic]) -> int:
    """Returns how many of the images ``(images, …)`` differ in any value."""
    return len({hashlib.sha256(np.ascontiguousarray(image).data).digest() for image in images})


def tell_alike(images: NDArray[np.generic]) -> str:
    """Returns a sentence if there are few images, or few that differ, or empty.

    Args:
        images: ``(images, channels, height, width)``.
    """
    different = count_different(images)
    if different < len(images):
        return (
            f"only {different} of {len(images)} images differ, which shows little of what the model does: name images "
            "of all kinds that it will see"
        )
    if different < FEW:
        return f"{different} images show little of what the model does: name {FEW} or more that differ"
    return ""
