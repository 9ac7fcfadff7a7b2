# SPDX-License-Identifier: Apache-2.0
"""All images of a stream, kept in memory, for parity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vitedge.errors import BadImages
from vitedge.images.stream import open_images, tell_shortage, tell_skipped
from vitedge.records import ModelSpec

MAX_BYTES = 8 * 2**30


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images as the model's preprocessing leaves them before the normalization."""

    pixels: NDArray[np.uint8]
    """``(images, channels, height, width)``, 0 to 255, RGB or grey."""
    names: tuple[str, ...]
    """Name of each image: its path below the folder with ``/``, or its number in the array or in the synthetic set."""
    source: str
    """``synthetic, seed 0``, or the path and the number of its images that were taken."""
    sha256: str
    """SHA-256 of the pixels: equal in two reports on the same images."""
    skipped: Mapping[str, str] = field(default_factory=dict)
    """Name of an image that could not be read, to the reason."""
    labels: tuple[int, ...] = ()
    """Class of each image, where the source holds it."""
    asked: int = 0
    """Number of images that were asked for."""

    @property
    def remarks(self) -> tuple[str, ...]:
        """Sentences on images that could not be read, each by name (the first ten), and on fewer than asked for."""
        return (*tell_skipped(self.skipped), *([self.shortage] if self.shortage else []))

    @property
    def shortage(self) -> str:
        """A sentence if there are fewer images than were asked for, or empty."""
        return tell_shortage(self.asked, len(self.names), self.source)


def load(source: str | Path, spec: ModelSpec, count: int, seed: int = 0) -> ImageSet:
    """Collects images, prepared for a model: those of `vitedge.images.stream.open_images`, all in memory.

    Args:
        source: as `open_images` takes it.
        spec: image size, channels and preprocessing.
        count: how many; fewer come back where the source holds fewer.
        seed: decides which are drawn, or what is synthesized.

    Raises:
        BadImages: nothing is there, nothing can be read, more than 5 % (and more than one) of the images are corrupt,
            or they do not fit into memory.
        BadRecipe: a count below one, or a preprocessing that does not exist.
    """
    stream = open_images(source, spec, count, seed)
    _check_memory(spec, stream.count)
    pixels = np.empty((stream.count, spec.in_channels, *spec.image_size), np.uint8)
    for batch in stream.batches(1):
        pixels[stream.read - 1] = batch[0]
    return ImageSet(
        pixels[: stream.read],
        stream.names,
        stream.describe(),
        stream.sha256,
        dict(stream.skipped),
        stream.labels,
        count,
    )


def _check_memory(spec: ModelSpec, count: int) -> None:
    size = count * spec.in_channels * spec.image_size[0] * spec.image_size[1]
    if size > MAX_BYTES:
        raise BadImages(
            f"{count} images take {size / 2**30:.0f} GiB; ask for fewer (at most {MAX_BYTES * count // size})."
        )
