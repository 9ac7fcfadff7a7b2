# SPDX-License-Identifier: Apache-2.0
"""Takes apart what a user's iterable hands out: single images and batches, alone or with their classes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vitedge.errors import BadImages
from vitedge.images.synthetic import Uniform

KINDS = "pictures of Pillow, NumPy arrays, tensors, paths, or pairs of one of these and its class"
_IMAGE_KEYS = ("image", "images", "pixel_values", "img")
_CLASS_KEYS = ("label", "labels", "class", "target")
"""Keys of an example of a data set that is a mapping, such as those of the library datasets."""


class Held(NamedTuple):
    """One image that was taken, and its class."""

    pixels: NDArray[Any] | Image.Image | Path
    """``(height, width)``, ``(height, width, channels)`` or ``(channels, height, width)``; a picture, or its file."""
    channels_first: bool
    """Where three axes leave it open, as of 3x3 pixels: tensors have their channels first."""
    label: int | str | None = None


def drawn(length: int, count: int | None, seed: int) -> list[int]:
    """Draws the indices of ``count`` different images of ``length``, or all, in rising order."""
    return sorted(int(place) for place in np.argsort(Uniform(seed).draw(length), kind="stable")[:count])


def take(given: object, count: int | None, seed: int) -> tuple[list[Held], int]:
    """Takes images, once.

    Of an array, a sequence or a data set with a length ``count`` are drawn by ``seed``, as of a file; of any other
    iterable the first ``count`` are taken and no more, so that an endless one ends.

    Returns:
        The images, and the number of those that they were taken from.

    Raises:
        BadImages: nothing is there, or something that is no image.
    """
    if isinstance(given, (str, bytes, bytearray, Image.Image)):
        what = "one image" if isinstance(given, Image.Image) else type(given).__name__
        raise BadImages(f"images takes several images, and got {what}: give a list, an array, or a path.")
    if is_array(given):
        return _drawn(list(_of_stack(as_array(given), None, first=_is_tensor(given))), count, seed)
    if isinstance(given, Mapping):
        return _drawn(list(_of_entry(given)), count, seed)
    if hasattr(given, "__getitem__") and hasattr(given, "__len__"):
        length = len(given)
        found = [one for place in drawn(length, count, seed) for one in _of_entry(given[place])]
        if count is None or count >= length:  # all were read; where they were batches, these are drawn from
            return _drawn(found, count, seed)
        return found[:count], length
    if not isinstance(given, Iterable):
        raise BadImages(f"images takes an iterable or a path, and got {type(given).__name__}: give a list or an array.")
    first = list(islice((one for entry in given for one in _of_entry(entry, copied=True)), count))
    return first, len(first)


def _drawn(held: list[Held], count: int | None, seed: int) -> tuple[list[Held], int]:
    return [held[place] for place in drawn(len(held), count, seed)], len(held)


def _of_entry(entry: Any, label: Any = None, *, copied: bool = False) -> Iterator[Held]:
    """Yields the images of what an iterable hands out: one, or a batch, alone or with classes."""
    if isinstance(entry, Mapping):
        yield from _of_example(entry, copied=copied)
    elif isinstance(entry, (tuple, list)) and len(entry) == 2 and not _is_image(entry[1]):
        yield from _of_entry(entry[0], entry[1], copied=copied)
    elif isinstance(entry, (tuple, list)) and entry and label is None and _are_images(entry):
        yield from (one for inner in entry for one in _of_entry(inner, copied=copied))
    elif isinstance(entry, Image.Image):
        yield Held(entry.copy() if copied else entry, channels_first=False, label=_class(label))
    elif isinstance(entry, (str, Path)):
        yield Held(Path(entry), channels_first=False, label=_class(label))
    elif is_array(entry):
        pixels = as_array(entry, copied=copied)
        if pixels.ndim == 4:
            yield from _of_stack(pixels, label, first=_is_tensor(entry))
        else:
            yield Held(pixels, channels_first=_is_tensor(entry), label=_class(label))
    else:
        raise BadImages(f"images handed out {type(entry).__name__}, which is no image: it may hand out {KINDS}.")


def _of_example(entry: Mapping[Any, Any], *, copied: bool) -> Iterator[Held]:
    image = next((entry[key] for key in _IMAGE_KEYS if key in entry), None)
    if image is None:
        held = ", ".join(map(str, entry))
        raise BadImages(f"images handed out a mapping of {held}: the image goes by {', '.join(_IMAGE_KEYS)}.")
    yield from _of_entry(image, next((entry[key] for key in _CLASS_KEYS if key in entry), None), copied=copied)


def _of_stack(stack: NDArray[Any], labels: Any, *, first: bool) -> Iterator[Held]:
    if stack.ndim == 3 and not {stack.shape[0], stack.shape[2]} & {1, 3, 4}:
        stack = stack[..., None]  # grey pictures
    if stack.ndim != 4:
        raise BadImages(
            f"An array of images has four axes, (images, height, width, channels) or (images, channels, height, width);"
            f" got {stack.shape}: one image is given in a list."
        )
    classes = [None] * len(stack) if labels is None else list(as_array(labels) if is_array(labels) else labels)
    if len(classes) != len(stack):
        raise BadImages(f"A batch has {len(stack)} images and {len(classes)} classes: each image has one.")
    yield from (
        Held(pixels, channels_first=first, label=_class(label)) for pixels, label in zip(stack, classes, strict=True)
    )


def _class(label: Any) -> int | str | None:
    """Returns a class as a number or a name.

    Raises:
        BadImages: it is neither.
    """
    if label is None or isinstance(label, str):
        return label
    value = label.item() if hasattr(label, "item") and math.prod(getattr(label, "shape", ())) == 1 else label
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise BadImages(f"The class of an image is a number or a name; got {type(label).__name__}.")


def _is_tensor(value: Any) -> bool:
    """Returns whether a value is PyTorch's tensor, without importing PyTorch."""
    return hasattr(value, "detach") and hasattr(value, "numpy")


def is_array(value: Any) -> bool:
    """Returns whether a value is NumPy's array or PyTorch's tensor."""
    return isinstance(value, np.ndarray) or _is_tensor(value)


def _is_image(value: Any) -> bool:
    """Returns whether a value is an image rather than the class of one: a name is a class."""
    return isinstance(value, (Image.Image, Path)) or (is_array(value) and value.ndim > 1)


def _are_images(values: Sequence[Any]) -> bool:
    """Returns whether values are images of one kind; a picture and its mask, of fewer axes, are not."""
    return all(_is_image(one) for one in values) and len({getattr(one, "ndim", 0) for one in values}) == 1


def as_array(value: Any, *, copied: bool = False) -> NDArray[Any]:
    """Returns the array of a tensor, or the array itself; a copy of what an iterator may fill again."""
    if _is_tensor(value):
        found = value.detach().cpu()
        value = (found.float() if str(found.dtype) in ("torch.bfloat16", "torch.float16") else found).numpy()
    return np.array(value) if copied else np.asarray(value)
