# SPDX-License-Identifier: Apache-2.0
"""Where the images for parity and calibration come from: a folder, a file, an array, or the synthetic set."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from vitedge.calibration.arrays import ArrayFile
from vitedge.calibration.preprocess import MAX_PIXELS, as_image, prepare
from vitedge.calibration.synthetic import synthesize
from vitedge.errors import BadImages, BadRecipe
from vitedge.records import ModelSpec

SYNTHETIC = "synthetic"
SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
CORRUPT_SHARE = 0.05
"""More corrupt images than this are refused; one is always forgiven, however small the set."""
MAX_BYTES = 8 * 2**30


class Candidate(NamedTuple):
    """An image that may be taken."""

    name: str
    pixels: Callable[[], NDArray[np.uint8]]
    """Reads and prepares it: ``(channels, height, width)``."""
    label: int | None = None


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images as the model's preprocessing leaves them before the normalization."""

    pixels: NDArray[np.uint8]
    """``(images, channels, height, width)``, 0 to 255, RGB or grey."""
    names: tuple[str, ...]
    """Of each image: its path below the folder with ``/``, or its number in the array or in the synthetic set."""
    source: str
    """``synthetic, seed 0``, or the path and how many of its images were taken."""
    sha256: str
    """Of the pixels, so that two reports can be seen to speak of the same images."""
    skipped: Mapping[str, str] = field(default_factory=dict)
    """Name of an image that could not be read, to the reason."""
    labels: tuple[int, ...] = ()
    """Class of each image, where the source holds it."""


def load(source: str | Path, spec: ModelSpec, count: int, seed: int = 0) -> ImageSet:
    """Collects images, prepared for a model.

    Args:
        source: ``synthetic``; a folder, searched with its sub-folders, from which the images are drawn evenly; one
            image file; or an ``.npy`` or ``.npz`` of uint8 images (NHWC, NCHW or grey NHW; in an ``.npz`` named
            ``images``, beside which ``labels`` may stand).
        spec: image size, channels and preprocessing.
        count: how many; fewer come back where the source holds fewer.
        seed: decides which are drawn, or what is synthesized.

    Raises:
        BadImages: nothing is there, nothing can be read, or more than 5 % (and more than one) of the images are
            corrupt.
        BadRecipe: a count below one, or a preprocessing that does not exist.
    """
    if count < 1:
        raise BadRecipe(f"The number of images is at least 1; got {count}.")
    if spec.in_channels not in (1, 3):
        raise BadImages(f"{spec.variant} takes {spec.in_channels} channels; images have 3 (colour) or 1 (grey).")
    if str(source) == SYNTHETIC:
        return _synthetic(spec, count, seed)
    path = Path(source)
    if path.is_dir():
        return _from_folder(path, spec, count, seed)
    if not path.exists():
        raise BadImages(f"There is no {path}; --images takes a folder, an image, an .npy, an .npz, or {SYNTHETIC}.")
    if path.suffix.lower() in (".npy", ".npz"):
        return _from_array(path, spec, count, seed)
    if path.suffix.lower() not in SUFFIXES:
        raise BadImages(f"{path} is no image; --images takes {', '.join(sorted(SUFFIXES))}, .npy, .npz or a folder.")
    return _collect([Candidate(path.name, partial(_decode, path, spec))], spec, 1, str(path))


def _synthetic(spec: ModelSpec, count: int, seed: int) -> ImageSet:
    _check_memory(spec, count)
    colour = synthesize(count, *spec.image_size, seed)
    pixels = colour
    if spec.in_channels == 1:
        grey = [np.asarray(as_image(image.transpose(1, 2, 0)).convert("L"), np.uint8) for image in colour]
        pixels = np.stack(grey)[:, None]
    names = tuple(f"{SYNTHETIC} {index}" for index in range(count))
    return ImageSet(pixels, names, f"{SYNTHETIC}, seed {seed}", _digest(pixels))


def _from_folder(folder: Path, spec: ModelSpec, count: int, seed: int) -> ImageSet:
    names = _drawn(_images_below(folder), seed)
    if not names:
        raise BadImages(f"{folder} holds no images ({', '.join(sorted(SUFFIXES))}), nor do its sub-folders.")
    candidates = (Candidate(name, partial(_decode, folder / name, spec)) for name in names)
    taken = f"{folder}, {min(count, len(names))} of {len(names)} images, seed {seed}"
    return _collect(candidates, spec, min(count, len(names)), taken)


def _images_below(folder: Path) -> dict[str, list[str]]:
    """The names of the images in each sub-folder that has some; links to folders are followed, each folder once."""
    found: dict[str, list[str]] = {}
    visited: set[str] = set()
    for place, folders, files in os.walk(folder, onerror=_refuse_folder, followlinks=True):
        real = os.path.realpath(place)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        # Hidden files are other systems' notes: macOS leaves a ._NAME.jpg beside every image.
        images = [name for name in files if Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")]
        if images:
            found[Path(place).relative_to(folder).as_posix()] = images
    return found


def _refuse_folder(error: OSError) -> None:
    raise BadImages(f"{error.filename} cannot be listed: {error.strerror}.") from error


def _drawn(found: Mapping[str, list[str]], seed: int) -> list[str]:
    """All images in the order in which they are drawn: one of each sub-folder in turn, shuffled by hash.

    The order depends on the names alone, not on the file system's, and stays the same on every machine.
    """

    def shuffled(name: str) -> bytes:
        return hashlib.sha256(f"{seed}/{name}".encode("utf-8", "surrogateescape")).digest()

    folders = sorted(found, key=shuffled)
    columns = [
        sorted((name if place == "." else f"{place}/{name}" for name in found[place]), key=shuffled)
        for place in folders
    ]
    return [name for row in zip_longest(*columns) for name in row if name is not None]


def _decode(path: Path, spec: ModelSpec) -> NDArray[np.uint8]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of bombs, which are refused here, and of odd metadata
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise BadImages(f"{image.width} x {image.height} pixels, which looks like a decompression bomb")
            return prepare(image, spec)


def _from_array(path: Path, spec: ModelSpec, count: int, seed: int) -> ImageSet:
    with ArrayFile(path) as array:
        chosen, labels = array.drawn(count, seed), array.labels()
        candidates = (
            Candidate(
                f"{path.name} {index}",
                partial(_prepare_element, array, index, spec),
                None if labels is None else int(labels[index]),
            )
            for index in chosen
        )
        return _collect(candidates, spec, len(chosen), f"{path}, {len(chosen)} of {len(array)} images, seed {seed}")


def _prepare_element(array: ArrayFile, index: int, spec: ModelSpec) -> NDArray[np.uint8]:
    return prepare(as_image(array[index]), spec)


def _collect(candidates: Iterable[Candidate], spec: ModelSpec, count: int, source: str) -> ImageSet:
    """Prepares one image after the other until there are enough; what cannot be read is replaced by the next."""
    _check_memory(spec, count)
    pixels = np.empty((count, spec.in_channels, *spec.image_size), np.uint8)
    taken: list[Candidate] = []
    skipped: dict[str, str] = {}
    for candidate in candidates:
        try:
            pixels[len(taken)] = candidate.pixels()
            taken.append(candidate)
        except (BadRecipe, MemoryError):
            raise
        except Exception as error:  # a damaged file makes Pillow raise almost anything
            skipped[candidate.name] = _reason(error)
            # Even if all that are still wanted turn out well.
            _refuse_corrupt(skipped, count, len(taken), source)
        if len(taken) == count:
            break
    _refuse_corrupt(skipped, len(taken), len(taken), source)
    pixels = pixels[: len(taken)]
    labels = tuple(candidate.label for candidate in taken if candidate.label is not None)
    return ImageSet(pixels, tuple(candidate.name for candidate in taken), source, _digest(pixels), skipped, labels)


def _refuse_corrupt(skipped: Mapping[str, str], good: int, read: int, source: str) -> None:
    """Raises BadImages when, beside that many good images, too many were skipped; ``read`` is how many were read."""
    if not skipped or (good and len(skipped) <= max(1, CORRUPT_SHARE * (good + len(skipped)))):
        return
    name, reason = next(iter(skipped.items()))
    if not read and not good:
        raise BadImages(f"No image of {source} can be read; {name}: {reason}.")
    raise BadImages(
        f"{len(skipped)} of the first {read + len(skipped)} images of {source} cannot be read, which is more than "
        f"{CORRUPT_SHARE:.0%}; the first is {name}: {reason}. Mend or remove them."
    )


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image of a known kind, or damaged"
    if isinstance(error, Image.DecompressionBombError):
        return "it looks like a decompression bomb"
    return str(error).rstrip(".") or type(error).__name__


def _check_memory(spec: ModelSpec, count: int) -> None:
    size = count * spec.in_channels * spec.image_size[0] * spec.image_size[1]
    if size > MAX_BYTES:
        raise BadImages(
            f"{count} images take {size / 2**30:.0f} GiB; ask for fewer (at most {MAX_BYTES * count // size})."
        )


def _digest(pixels: NDArray[np.uint8]) -> str:
    return hashlib.sha256(np.ascontiguousarray(pixels).data).hexdigest()
