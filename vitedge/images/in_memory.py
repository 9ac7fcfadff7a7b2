# SPDX-License-Identifier: Apache-2.0
"""Images in memory as a source: arrays, tensors, pictures and paths, whatever hands them out, with their classes.

What cannot be told from an image of 8 bits is refused: floating-point numbers are either within 0 and 1, or the model's
own input, which has to be said.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vitedge.errors import BadImages
from vitedge.images.handed_out import Held, drawn, take
from vitedge.images.preprocess import prepare_image, takes_pictures
from vitedge.records import ModelSpec, Origin

MAX_BYTES = 8 * 2**30
"""Bytes of images that are kept; more belong into a folder."""
_DIGITS = 16
"""Hexadecimal digits of the digest that the text shows: enough to tell sets apart."""
_SLACK = 0.02
"""How far a normalized image may lie outside of 0 and 1: what a resizing filter overshoots."""
_CONTRAST = 0.5
"""Share of 0 to 1 that some channel of a set of images spans at least; less was normalized with other numbers."""
_DIVIDED = 1.01 / 255
"""Largest value of images that were divided by 255 twice."""


class ImagesInMemory(str):
    """Images in memory, under the text that stands for them in a recipe: ``128 images in memory, sha256 …``.

    A recipe names its images with a text, which goes into a manifest as it is; this one has the images with it.
    """

    __slots__ = ("available", "held", "normalized")
    held: tuple[Held, ...]
    normalized: bool
    """Whether the arrays are the model's input: normalized, and of its size."""
    available: int
    """Number of images that they were taken from."""

    def __new__(cls, held: Sequence[Held], available: int, *, normalized: bool) -> ImagesInMemory:
        """Returns the images with their text."""
        count = f"{len(held)}" if len(held) == available else f"{len(held)} of {available}"
        images = "image" if len(held) == available == 1 else "images"
        kind = "normalized " if normalized else ""
        found = super().__new__(cls, f"{count} {kind}{images} in memory, sha256 {_digest(held)[:_DIGITS]}")
        found.held, found.normalized, found.available = tuple(held), normalized, available
        return found

    def __str__(self) -> str:
        """Returns the images themselves: a copy of the text would have lost them."""
        return self

    def prepared(self, index: int, spec: ModelSpec) -> NDArray[np.uint8]:
        """Returns an image as a model's preprocessing leaves it before the normalization.

        Raises:
            BadImages: its channels or, where it is normalized, its size are not the model's.
        """
        one = self.held[index]
        if isinstance(one.pixels, Path):
            raise ValueError("a path is decoded by its source")
        if isinstance(one.pixels, Image.Image):
            return prepare_image(one.pixels, spec)
        pixels = _channels_last(one, spec)
        if self.normalized:
            return _denormalized(pixels, spec, index)
        return prepare_image(_eight_bits(pixels), spec)

    def content(self, index: int) -> bytes:
        """Returns the digest of an image: it stands for its bytes."""
        return _content(self.held[index])

    def drawn(self, count: int, seed: int) -> list[int]:
        """Draws the indices of ``count`` different images, or all, in rising order."""
        return drawn(len(self.held), count, seed)

    def check(self, spec: ModelSpec) -> None:
        """Refuses images that are not the model's, whose preparation would otherwise fail one by one.

        Raises:
            BadImages: an array of other channels; or normalized ones whose values the model's mean and std cannot have
                given, or where these are guessed.
        """
        arrays = [_channels_last(one, spec) for one in self.held if isinstance(one.pixels, np.ndarray)]
        if not self.normalized:
            return
        if spec.origins.get("preprocessing.mean") is Origin.ASSUMED:
            raise BadImages(
                f"The images are normalized, and the mean and std of {spec.variant} are guessed: say "
                "preprocessing=dict(mean=..., std=...) as they were normalized."
            )
        _check_contrast([_scaled(pixels, spec) for pixels in arrays], spec)


def collect(given: object, count: int | None, seed: int = 0, *, normalized: bool = False) -> ImagesInMemory:
    """Takes images from what a user has in memory, once; see `vitedge.images.handed_out.take`.

    Args:
        given: an array or tensor ``(images, height, width, channels)`` or ``(images, channels, height, width)``, or an
            iterable of pictures, arrays, tensors and paths, of pairs of these and their classes, or of batches of them.
            Arrays are uint8, or floating-point numbers from 0 to 1; RGB where there are three channels.
        count: how many; None takes all.
        seed: decides which.
        normalized: whether arrays are the model's input, as its mean and std left it.

    Raises:
        BadImages: nothing is there, something that is no image, or values that could be misread.
    """
    held, available = take(given, count, seed)
    if not held:
        raise BadImages(
            f"The {type(given).__name__} that was given as images hands out none: an iterator that was read before is "
            "empty; make it anew, or give a list."
        )
    if sum(_bytes(one) for one in held) > MAX_BYTES:
        raise BadImages(f"{len(held)} images take more than {MAX_BYTES >> 30} GiB of memory: give a folder of them.")
    _check_values(held, normalized=normalized)
    return ImagesInMemory(held, available, normalized=normalized)


def _bytes(one: Held) -> int:
    if isinstance(one.pixels, np.ndarray):
        return one.pixels.nbytes
    return 0 if isinstance(one.pixels, Path) else one.pixels.width * one.pixels.height * len(one.pixels.getbands())


def _content(one: Held) -> bytes:
    """Returns the digest of an image's size, type and pixels, or of its file."""
    if isinstance(one.pixels, Path):
        return hashlib.sha256(one.pixels.read_bytes()).digest()
    pixels = one.pixels if isinstance(one.pixels, np.ndarray) else np.asarray(one.pixels)
    described = f"{pixels.shape} {pixels.dtype} {one.channels_first} {getattr(one.pixels, 'mode', '')}\n"
    return hashlib.sha256(described.encode() + np.ascontiguousarray(pixels).tobytes()).digest()


def _digest(held: Sequence[Held]) -> str:
    """Returns the SHA-256 of images and their classes.

    Raises:
        BadImages: a file cannot be read.
    """
    digest = hashlib.sha256()
    for one in held:
        try:
            digest.update(_content(one))
        except OSError as error:
            raise BadImages(f"{one.pixels} cannot be read: {error.strerror or error}.") from error
        digest.update(f"{one.label}\n".encode())
    return digest.hexdigest()


def _check_values(held: Sequence[Held], *, normalized: bool) -> None:
    """Refuses arrays that could be misread.

    Raises:
        BadImages: says what they hold, and what to give.
    """
    arrays = [one.pixels for one in held if isinstance(one.pixels, np.ndarray)]
    for pixels in arrays:
        if pixels.ndim not in (2, 3) or 0 in pixels.shape:
            raise BadImages(f"An image has two or three axes, (height, width, channels); got shape {pixels.shape}.")
        if pixels.dtype != np.uint8 and pixels.dtype.kind != "f":
            raise BadImages(
                f"Images are uint8 from 0 to 255, or floating-point numbers from 0 to 1; got {pixels.dtype}: convert "
                "them, for example with .astype(numpy.uint8)."
            )
    numbers = [pixels for pixels in arrays if pixels.dtype.kind == "f"]
    if normalized and len(numbers) < len(held):
        raise BadImages("normalized says that images are the model's input, and not all are floating-point arrays.")
    if not numbers:
        return
    low, high = min(float(one.min()) for one in numbers), max(float(one.max()) for one in numbers)
    if not (math.isfinite(low) and math.isfinite(high)):
        raise BadImages("The images hold NaN or infinity.")
    if not normalized:
        _check_range(low, high)


def _check_range(low: float, high: float) -> None:
    """Refuses floating-point images that are not scaled to 0 and 1.

    Raises:
        BadImages: says whether they look normalized, unscaled or scaled twice.
    """
    if low < 0:
        raise BadImages(
            f"The images are floating-point numbers from {low:.3g} to {high:.3g}, which look normalized: say "
            "normalized=True where they are the model's input, or give them before the normalization, from 0 to 1."
        )
    if high > 1:
        raise BadImages(
            f"The images are floating-point numbers from {low:.3g} to {high:.3g}: give uint8, or divide them by 255."
        )
    if high <= _DIVIDED:
        raise BadImages(f"The largest value of the images is {high:.3g}, as if they were divided by 255 twice.")


def _channels_last(one: Held, spec: ModelSpec) -> NDArray[Any]:
    """Returns an array as ``(height, width)`` or ``(height, width, channels)``.

    Raises:
        BadImages: neither its first nor its last axis is one of channels that the model takes.
    """
    pixels, accepted = one.pixels, (1, 3, 4) if takes_pictures(spec.in_channels) else (spec.in_channels,)
    if not isinstance(pixels, np.ndarray):
        raise ValueError("a picture has its channels last")
    if pixels.ndim == 2 and 1 in accepted:
        return pixels
    axes = (0, -1) if one.channels_first else (-1, 0)
    axis = next((axis for axis in axes if pixels.ndim == 3 and pixels.shape[axis] in accepted), None)
    if axis is None:
        words = "1, 3 or 4" if len(accepted) > 1 else f"{accepted[0]}"
        raise BadImages(
            f"An image has shape {pixels.shape}, and images for {spec.variant} have {words} channels: give (height, "
            f"width, {3 if 3 in accepted else accepted[0]})."
        )
    return np.moveaxis(pixels, axis, -1)


def _eight_bits(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """Returns pixels from 0 to 255: of floating-point numbers from 0 to 1 the nearest."""
    return pixels if pixels.dtype == np.uint8 else np.rint(pixels * 255).astype(np.uint8)


def _scaled(pixels: NDArray[Any], spec: ModelSpec) -> NDArray[np.float32]:
    """Takes the normalization back: ``(height, width, channels)``, RGB where there are three, from about 0 to 1."""
    preprocessing = spec.preprocessing
    mean, std = (np.asarray(values, np.float32) for values in (preprocessing.mean, preprocessing.std))
    found: NDArray[np.float32] = pixels.astype(np.float32) * std + mean
    return found[..., ::-1] if preprocessing.channel_order == "bgr" else found


def _check_contrast(images: Sequence[NDArray[np.float32]], spec: ModelSpec) -> None:
    lows, highs = np.min([one.min((0, 1)) for one in images], 0), np.max([one.max((0, 1)) for one in images], 0)
    low, high = float(lows.min()), float(highs.max())
    numbers = f"mean {spec.preprocessing.mean} and std {spec.preprocessing.std}"
    if low < -_SLACK or high > 1 + _SLACK or float((highs - lows).max()) < _CONTRAST:
        raise BadImages(
            f"The images were not normalized with the model's {numbers}, which would make them {low:.2f} to {high:.2f} "
            "of an image's 0 to 1: say preprocessing=dict(mean=..., std=...) as they were, or give them before the "
            "normalization."
        )


def _denormalized(pixels: NDArray[Any], spec: ModelSpec, index: int) -> NDArray[np.uint8]:
    """Returns the image that was normalized, in 8 bits: ``(channels, height, width)``."""
    if pixels.shape[:2] != spec.image_size:
        found, wanted = ("x".join(map(str, size)) for size in (pixels.shape[:2], spec.image_size))
        raise BadImages(
            f"Image {index} is normalized and has {found} pixels, and the model takes {wanted}: give it in that size, "
            "or before the normalization"
        )
    values = np.clip(np.rint(_scaled(pixels, spec) * 255), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(values.transpose(2, 0, 1))
