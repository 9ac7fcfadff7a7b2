# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.export import tiny
from vitedge.accuracy.count import Count, Predictor, classify, count_top1
from vitedge.images.class_names import Classes
from vitedge.images.labelled import find_labelled

IMAGES = 70


def brightness(pixels: NDArray[np.uint8]) -> NDArray[np.floating[Any]]:
    """Scores of seven classes: the brighter an image, the higher the class."""
    level = pixels.mean(axis=(1, 2, 3)) / 256 * 7
    return -np.abs(level[:, None] - np.arange(7) - 0.5)


def test_top1_alone_is_that_of_the_whole_count(tmp_path: Path) -> None:
    pixels = np.repeat(np.arange(IMAGES, dtype=np.uint8) * 3, 32 * 32 * 3).reshape(IMAGES, 32, 32, 3)
    labels = brightness(pixels.transpose(0, 3, 1, 2)).argmax(1)
    labels[::10] = (labels[::10] + 1) % 7
    np.savez(tmp_path / "images.npz", images=pixels, labels=labels)
    spec = tiny.spec("vit")
    labelled = find_labelled(tmp_path / "images.npz", Classes(7))
    assert count_top1(labelled, spec, brightness) == (63, IMAGES)
    count = Count([Predictor("a", "a", "torch", spec, 7, brightness)], with_reference=False)
    classify(count, labelled)
    assert (count.rows()[0].top1.count, count.images) == (63, IMAGES)
