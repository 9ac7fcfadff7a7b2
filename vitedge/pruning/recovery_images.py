# SPDX-License-Identifier: Apache-2.0
"""The images of a recovery: a share held out, the others in shuffled batches, in memory or read window by window.

The order depends on the seed, the epoch and the number of images alone, so that an interrupted epoch can be continued.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from vitedge.errors import BadImages
from vitedge.images.stream import ImageStream

IN_MEMORY = 2 * 2**30
"""Bytes of pixels that are decoded once and kept; a larger set is decoded again in every epoch."""
HELD_OUT_STRIDE = 10
"""One image of so many is held out."""
FEWEST = 20
"""Images without which nothing can be said of those that were held out."""
_WINDOWS = 4
"""Part of `IN_MEMORY` that a window of a larger set takes."""


@dataclass(frozen=True, eq=False)
class TrainingBatch:
    """Some images of one epoch."""

    pixels: NDArray[np.uint8]
    """``(images, channels, height, width)``, 0 to 255."""
    places: NDArray[np.int64]
    """Their numbers within the window."""


class RecoveryImages:
    """Images to learn from, and some that are held out: one of every ten of the first window.

    Args:
        stream: the images; those that are not held out are shuffled within a window, which is the whole set where it
            fits into memory.
        batch: most images of a batch; batches of an epoch differ in size by one image.
        seed: decides the order.
        limit: bytes of pixels that are kept in memory.

    Attributes:
        held_out: pixels ``(images, channels, height, width)``, uint8.
        window: pixels of the first window, those held out among them.
        in_memory: whether the window is the whole set.

    Raises:
        BadImages: fewer than `FEWEST` images, or as `ImageStream.batches`.
    """

    def __init__(self, stream: ImageStream, batch: int, seed: int, limit: int = IN_MEMORY) -> None:
        self._stream, self._batch, self._seed = stream, batch, seed
        image = next(stream.batches(1), None)
        size = 1 if image is None else image.nbytes
        fitting = stream.count * size <= limit
        self._length = max(stream.count, 1) if fitting else max(batch, limit // _WINDOWS // size)
        self.window = self._read(0)
        if stream.count < FEWEST:
            raise BadImages(
                f"{stream.describe()}: {stream.count} images are too few to recover on; give at least {FEWEST}."
            )
        self.in_memory = fitting
        self.held_out = self.window[::HELD_OUT_STRIDE]

    @property
    def count(self) -> int:
        """Number of images to learn from, as far as is known."""
        return self._stream.count - len(self.held_out)

    @property
    def batches(self) -> int:
        """Number of batches of an epoch, as far as is known."""
        starts = range(0, self._stream.count, self._length)
        lengths = [min(self._length, self._stream.count - start) for start in starts]
        lengths[0] -= len(self.held_out)
        return sum(math.ceil(length / self._batch) for length in lengths)

    def epoch(self, number: int, skip: int = 0) -> Iterator[TrainingBatch]:
        """Yields the batches of an epoch, every image once.

        Args:
            number: of the epoch, from 0.
            skip: batches at its beginning that are left out.
        """
        return islice(self._epoch(number), skip, None)

    def _epoch(self, number: int) -> Iterator[TrainingBatch]:
        for index, start in enumerate(range(0, self._stream.count, self._length)):
            pixels = self._read(start) if start else self.window
            places = np.arange(len(pixels))
            if start == 0:
                places = np.delete(places, np.s_[::HELD_OUT_STRIDE])
            order = np.random.default_rng((self._seed, number, index)).permutation(places)
            for part in np.array_split(order, max(1, math.ceil(len(order) / self._batch))):
                if len(part):
                    yield TrainingBatch(pixels[part], part)

    def _read(self, start: int) -> NDArray[np.uint8]:
        """Returns the window that begins with an image, or what there is of it."""
        return next(self._stream.batches(self._length, start), np.empty((0, 1, 1, 1), np.uint8))
