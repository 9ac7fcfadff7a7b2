# SPDX-License-Identifier: Apache-2.0
"""Sources of images: a folder, a list, a file, an array, or the synthetic set; each a sequence of candidates.

Which images are drawn, and in which order, depends on names and numbers and on the seed, not on the machine.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vitedge.errors import BadImages
from vitedge.images.arrays import ArrayFile
from vitedge.images.in_memory import ImagesInMemory
from vitedge.images.preprocess import MAX_PIXELS, as_image, picture_refusal, prepare_image, takes_pictures
from vitedge.images.synthetic import synthesize_channels, synthesize_image
from vitedge.records import ModelSpec

SYNTHETIC = "synthetic"
SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
ARRAY_SUFFIX = ".npy"
"""Files of one image each, for models of neither 1 nor 3 channels."""
LIST_SUFFIX = ".txt"
ARRAY_SUFFIXES = (".npy", ".npz")


class Candidate(NamedTuple):
    """An image of a source, not read yet."""

    name: str
    pixels: Callable[[], NDArray[np.uint8]]
    """Reads and prepares it: ``(channels, height, width)``."""
    content: Callable[[], bytes]
    """Returns bytes that identify it without decoding: those of the file, or the settings of a synthetic image."""
    label: int | None = None


@dataclass(frozen=True)
class Source:
    """The images of one source in drawing order."""

    title: str
    """The path and the number of its images that are taken, or ``synthetic, seed 0``."""
    available: int
    """Number of images that the source holds."""
    length: int
    """Number of candidates; those beyond the count asked for replace images that cannot be read."""
    candidate: Callable[[int], Candidate]
    close: Callable[[], None] = lambda: None
    """Closes open files; they are opened again when the next candidate is read."""


def find_source(source: str | Path, spec: ModelSpec, count: int, seed: int) -> Source:
    """Opens the source that a user names.

    Args:
        source: ``synthetic``; a folder, searched with its sub-folders; a ``.txt`` list of images, one path a line,
            relative to the list; one image; or an ``.npy`` or ``.npz`` of uint8 images (NHWC, NCHW, grey NHW or one
            HWC; in an ``.npz`` named ``images``, beside which ``labels`` may stand). For a model of neither 1 nor 3
            channels a folder and a list hold an ``.npy`` an image. Images in memory are taken as they are.
        spec: image size, channels and preprocessing.
        count: number of images wanted.
        seed: decides which are drawn, or what is synthesized.

    Raises:
        BadImages: nothing is there, or nothing that could be an image.
    """
    if isinstance(source, ImagesInMemory):
        return _held(source, spec, count, seed)
    if str(source) == SYNTHETIC:
        return Source(f"{SYNTHETIC}, seed {seed}", count, count, partial(_synthetic, spec, seed))
    path = Path(source)
    if path.is_dir():
        return _folder(path, spec, count, seed)
    if not path.exists():
        raise BadImages(
            f"There is no {path}; --images takes a folder, an image, a list in a {LIST_SUFFIX}, an .npy, an .npz, "
            f"or {SYNTHETIC}."
        )
    suffix = path.suffix.lower()
    if suffix in ARRAY_SUFFIXES:
        return _array(path, spec, count, seed)
    if suffix == LIST_SUFFIX:
        return _list(path, spec, count, seed)
    if suffix not in SUFFIXES:
        kinds = ", ".join(sorted(SUFFIXES))
        raise BadImages(f"{path} is no image; --images takes {kinds}, {LIST_SUFFIX}, .npy, .npz or a folder.")
    if not takes_pictures(spec.in_channels):
        raise picture_refusal(spec)
    return Source(str(path), 1, 1, lambda _: _file(path.parent, path.name, spec))


def _synthetic(spec: ModelSpec, seed: int, index: int) -> Candidate:
    def pixels() -> NDArray[np.uint8]:
        colour = synthesize_image(index, *spec.image_size, seed)
        if spec.in_channels == 3:
            return colour
        if not takes_pictures(spec.in_channels):
            return synthesize_channels(index, spec.in_channels, *spec.image_size, seed)
        return np.asarray(as_image(colour.transpose(1, 2, 0)).convert("L"), np.uint8)[None]

    return Candidate(f"{SYNTHETIC} {index}", pixels, f"{SYNTHETIC} {seed} {index}".encode)


def _folder(folder: Path, spec: ModelSpec, count: int, seed: int) -> Source:
    suffixes = SUFFIXES if takes_pictures(spec.in_channels) else frozenset({ARRAY_SUFFIX})
    names = _drawn(_images_below(folder, suffixes), seed)
    if not names and not takes_pictures(spec.in_channels) and _images_below(folder, SUFFIXES):
        raise picture_refusal(spec)
    if not names:
        raise BadImages(f"{folder} holds no images ({', '.join(sorted(suffixes))}), nor do its sub-folders.")
    return _files(folder, names, spec, _taken(folder, count, len(names), seed))


def _list(path: Path, spec: ModelSpec, count: int, seed: int) -> Source:
    """Opens the images that a list names, in shuffled order as for a folder: lists tend to be sorted by class."""
    try:
        # utf-8-sig: editors of other systems put a mark at the beginning.
        lines = path.read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines()
    except OSError as error:
        raise BadImages(f"{path} cannot be read: {error.strerror}.") from error
    found: dict[str, list[str]] = {}
    for name in dict.fromkeys(line.strip() for line in lines):
        if name:
            found.setdefault(str(PurePosixPath(name).parent), []).append(PurePosixPath(name).name)
    if not found:
        raise BadImages(f"{path} names no images; it has one path a line, relative to the list.")
    names = _drawn(found, seed)
    return _files(path.parent, names, spec, _taken(path, count, len(names), seed))


def _files(folder: Path, names: Sequence[str], spec: ModelSpec, title: str) -> Source:
    return Source(title, len(names), len(names), lambda index: _file(folder, names[index], spec))


def _taken(path: Path, count: int, available: int, seed: int) -> str:
    return f"{path}, {min(count, available)} of {available} images, seed {seed}"


def _images_below(folder: Path, suffixes: frozenset[str]) -> dict[str, list[str]]:
    """Returns the names of the images in each sub-folder that has some; follows links, and visits each folder once."""
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
        images = [name for name in files if Path(name).suffix.lower() in suffixes and not name.startswith(".")]
        if images:
            found[Path(place).relative_to(folder).as_posix()] = images
    return found


def _refuse_folder(error: OSError) -> None:
    raise BadImages(f"{error.filename} cannot be listed: {error.strerror}.") from error


def _drawn(found: Mapping[str, list[str]], seed: int) -> list[str]:
    """Returns all images in drawing order: one of each sub-folder in turn, shuffled by hash.

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


def _file(folder: Path, name: str, spec: ModelSpec) -> Candidate:
    path = folder / name
    return Candidate(name, partial(decode, path, spec), path.read_bytes)


def decode(path: Path, spec: ModelSpec) -> NDArray[np.uint8]:
    """Reads and prepares the image in a file: ``(channels, height, width)``.

    Raises:
        BadImages: a file of several images, more pixels than an image may have, or a picture where the model takes
            none; Pillow and NumPy raise almost anything where the file is damaged.
    """
    if path.stat().st_size == 0:
        raise BadImages("the file is empty")
    if path.suffix.lower() == ARRAY_SUFFIX:
        with ArrayFile(path, spec.in_channels) as array:
            if len(array) != 1:
                raise BadImages(f"it holds {len(array)} images, and a file of a folder or list holds one")
            return prepare_image(array[0], spec)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of bombs, which are refused here, and of odd metadata
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise BadImages(f"{image.width} x {image.height} pixels, which looks like a decompression bomb")
            return prepare_image(image, spec)


def _held(images: ImagesInMemory, spec: ModelSpec, count: int, seed: int) -> Source:
    chosen, available = images.drawn(count, seed), len(images.held)
    images.check(spec)
    title = images if count >= available else f"{count} of {images}, seed {seed}"
    return Source(title, available, len(chosen), lambda place: held_candidate(images, chosen[place], spec))


def held_candidate(images: ImagesInMemory, index: int, spec: ModelSpec, label: int | None = None) -> Candidate:
    """Returns an image in memory as a candidate."""
    place, name = images.held[index].pixels, f"image {index}"
    pixels = partial(decode, place, spec) if isinstance(place, Path) else partial(images.prepared, index, spec)
    return Candidate(str(place) if isinstance(place, Path) else name, pixels, partial(images.content, index), label)


def _array(path: Path, spec: ModelSpec, count: int, seed: int) -> Source:
    with ArrayFile(path, spec.in_channels) as array:
        chosen, labels = array.drawn(count, seed), array.labels()

    def candidate(place: int) -> Candidate:
        index = chosen[place]
        return Candidate(
            f"{path.name} {index}",
            lambda: prepare_image(array[index], spec),
            partial(array.content, index),
            None if labels is None else int(labels[index]),
        )

    return Source(_taken(path, count, len(array), seed), len(array), len(chosen), candidate, array.close)
