# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from vitedge.images.alike import FEW, count_different, tell_alike

IMAGES = np.random.default_rng(0).integers(0, 255, (FEW, 3, 4, 4), dtype=np.uint8)


@pytest.mark.parametrize(
    ("images", "different", "words"),
    [
        (IMAGES, FEW, ""),
        (IMAGES[:2], 2, "2 images show little"),
        (IMAGES[[0] * FEW], 1, f"only 1 of {FEW} images differ"),
        (IMAGES[[0, 1, 2, 2]].astype(np.float32), 3, "only 3 of 4 images differ"),
    ],
)
def test_few_images_and_copies_are_told(images: np.ndarray, different: int, words: str) -> None:
    assert count_different(images) == different
    assert tell_alike(images).startswith(words)
    assert bool(tell_alike(images)) == bool(words)
