# SPDX-License-Identifier: Apache-2.0
"""Images one batch after the other: a thousand take no more memory than one batch."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from vitedge.errors import BadImages, BadRecipe
from vitedge.images.sources import Source, find_source
from vitedge.records import ModelSpec

CORRUPT_SHARE = 0.05
"""More corrupt images than this are refused; one is always forgiven, however small the set."""

_NAMED = 10
"""Largest number of skipped images that are named."""


class ImageStream:
    """The images of a source, read when they are asked for; an image that cannot be read is replaced by the next.

    Args:
        source: the candidates in the order in which they are drawn.
        asked: number of images that the user wants.

    Attributes:
        asked: number of images that the user wants.
        found: number of images that the source holds.
        count: number of images that will come, if all can be read.
    """

    def __init__(self, source: Source, asked: int) -> None:
        self.asked = asked
        self.found = source.available
        self.count = min(asked, source.length)
        self._source = source
        self._next = 0  # the first candidate that was not read yet
        self._good: list[int] = []  # the candidates behind the images read so far
        self._names: list[str] = []
        self._labels: list[int] = []
        self._skipped: dict[str, str] = {}
        self._digest = hashlib.sha256()

    def batches(self, size: int, start: int = 0) -> Iterator[NDArray[np.uint8]]:
        """Yields the images in batches; every call gives the same ones in the same order.

        Args:
            size: images of a batch; the last has what is left.
            start: the image to begin with. Those before it that were not read yet are read, for the digest and because
                they decide which follow, but not given.

        Returns:
            Arrays ``(images, channels, height, width)`` as the model's preprocessing leaves them before the
            normalization: 0 to 255, RGB or grey.

        Raises:
            BadImages: more than 5 % (and more than one) of the images are corrupt, or an image changed between two
                readings.
            ValueError: a size below one or a start below zero.
        """
        if size < 1 or start < 0:
            raise ValueError(f"a batch has at least one image and begins at 0 or later; got {size} from {start}")
        try:
            while True:
                images: list[NDArray[np.uint8]] = []
                while len(images) < size and (image := self._image(start + len(images))) is not None:
                    images.append(image)
                if not images:
                    return
                start += len(images)
                yield np.stack(images)
        finally:
            self._source.close()

    def describe(self) -> str:
        """Returns ``synthetic, seed 0``, or the path and the number of its images that were taken."""
        return self._source.title

    def fingerprint(self) -> str:
        """Returns the SHA-256 of the undecoded images: the bytes of their files and of possible replacements.

        It takes a fraction of the time of decoding them, and suffices to look up cached calibration ranges. The
        preprocessing is not part of it.
        """
        digest = hashlib.sha256(f"{self.count}\n".encode())
        # As many as CORRUPT_SHARE forgives may have to be replaced.
        spare = max(1, math.ceil(self.count * CORRUPT_SHARE / (1 - CORRUPT_SHARE)))
        try:
            for index in range(min(self.count + spare, self._source.length)):
                candidate = self._source.candidate(index)
                try:
                    content = hashlib.sha256(candidate.content()).hexdigest()
                except Exception:  # whatever it is, reading the image will meet it again and name it
                    content = "unreadable"
                digest.update(f"{content}  {candidate.name}\n".encode("utf-8", "surrogateescape"))
        finally:
            self._source.close()
        return digest.hexdigest()

    @property
    def read(self) -> int:
        """Number of images read so far."""
        return len(self._good)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the images read so far: the path below the folder with ``/``, or the number in the array or set."""
        return tuple(self._names)

    @property
    def labels(self) -> tuple[int, ...]:
        """Class of each image read so far, where the source holds it."""
        return tuple(self._labels)

    @property
    def skipped(self) -> Mapping[str, str]:
        """Name of an image that could not be read, to the reason."""
        return MappingProxyType(self._skipped)

    @property
    def sha256(self) -> str:
        """SHA-256 of the pixels of the images read so far: two sets with the same digest are the same images."""
        return self._digest.hexdigest()

    @property
    def shortage(self) -> str:
        """A sentence if fewer images come than were asked for, or empty."""
        return tell_shortage(self.asked, self.count, self.describe())

    def _image(self, index: int) -> NDArray[np.uint8] | None:
        """Returns the image of that number, or None where there are no more."""
        if index < len(self._good):
            return self._again(index)
        image = None
        while len(self._good) <= index:
            image = self._discover()
            if image is None:
                return None
        return image

    def _again(self, index: int) -> NDArray[np.uint8]:
        candidate = self._source.candidate(self._good[index])
        try:
            return candidate.pixels()
        except (BadRecipe, MemoryError):
            raise
        except Exception as error:
            raise BadImages(
                f"{candidate.name} of {self.describe()} could be read before and cannot now: {_reason(error)}."
            ) from error

    def _discover(self) -> NDArray[np.uint8] | None:
        """Reads the next image for the first time, and notes those before it that cannot be read."""
        while len(self._good) < self.count and self._next < self._source.length:
            candidate = self._source.candidate(self._next)
            self._next += 1
            try:
                pixels = candidate.pixels()
            except (BadRecipe, MemoryError):
                raise
            except Exception as error:  # a damaged file makes Pillow raise almost anything
                self._skipped[candidate.name] = _reason(error)
                # Even if all that are still wanted turn out well.
                self._refuse_corrupt(self.count)
                continue
            self._good.append(self._next - 1)
            self._names.append(candidate.name)
            if candidate.label is not None:
                self._labels.append(candidate.label)
            self._digest.update(np.ascontiguousarray(pixels).data)
            return pixels
        self.count = len(self._good)
        self._refuse_corrupt(self.count)
        return None

    def _refuse_corrupt(self, good: int) -> None:
        """Raises BadImages when, beside that many good images, too many were skipped."""
        skipped, read = self._skipped, len(self._good)
        if not skipped or (good and len(skipped) <= max(1, CORRUPT_SHARE * (good + len(skipped)))):
            return
        name, reason = next(iter(skipped.items()))
        if not good:
            raise BadImages(f"No image of {self.describe()} can be read; {name}: {reason}.")
        raise BadImages(
            f"{len(skipped)} of the first {read + len(skipped)} images of {self.describe()} cannot be read, which is "
            f"more than {CORRUPT_SHARE:.0%}; the first is {name}: {reason}. Mend or remove them."
        )


def open_images(source: str | Path, spec: ModelSpec, count: int, seed: int = 0) -> ImageStream:
    """Opens images, prepared for a model; nothing is decoded yet.

    Args:
        source: ``synthetic``; a folder, searched with its sub-folders, from which the images are drawn evenly; a
            ``.txt`` list of images, one path a line, relative to the list; one image file; or an ``.npy`` or ``.npz``
            of uint8 images (NHWC, NCHW, grey NHW or one HWC; in an ``.npz`` named ``images``, beside which ``labels``
            may stand). For a model of neither 1 nor 3 channels a folder and a list hold an ``.npy`` an image.
        spec: image size, channels and preprocessing.
        count: how many; fewer come where the source holds fewer, which ``shortage`` says.
        seed: decides which are drawn, or what is synthesized.

    Raises:
        BadImages: nothing is there, or nothing that could be an image.
        BadRecipe: a count below one.
    """
    if count < 1:
        raise BadRecipe(f"The number of images is at least 1; got {count}.")
    return ImageStream(find_source(source, spec, count, seed), count)


def tell_shortage(asked: int, taken: int, source: str) -> str:
    """Returns a sentence if fewer images were taken than were asked for, or the empty string."""
    if taken >= asked:
        return ""
    return f"{asked} images were asked for, and only {taken} can be taken of {source}."


def tell_skipped(skipped: Mapping[str, str]) -> tuple[str, ...]:
    """Returns a sentence for each of the first images that could not be read, and their number; nothing for none."""
    if not skipped:
        return ()
    named = [f"skipped: {name}: {reason}" for name, reason in list(skipped.items())[:_NAMED]]
    unnamed = f", {len(skipped) - _NAMED} of them not named here" if len(skipped) > _NAMED else ""
    return (*named, f"images that could not be read and were skipped: {len(skipped)}{unnamed}")


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image of a known kind, or damaged"
    if isinstance(error, Image.DecompressionBombError):
        return "it looks like a decompression bomb"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror[0].lower() + error.strerror[1:]
    return str(error).rstrip(".") or type(error).__name__
