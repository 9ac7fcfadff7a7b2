# SPDX-License-Identifier: Apache-2.0
"""Labelled images: class folders, a table, or an array file with labels."""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from vitedge.errors import BadImages, BadRecipe
from vitedge.images.arrays import ArrayFile
from vitedge.images.class_names import Classes, check_range, number_folders, number_labels
from vitedge.images.in_memory import ImagesInMemory
from vitedge.images.preprocess import prepare_image, takes_pictures
from vitedge.images.sources import ARRAY_SUFFIX, SUFFIXES, SYNTHETIC, Candidate, Source, decode, held_candidate
from vitedge.images.stream import ImageStream
from vitedge.records import ModelSpec

KINDS = "a folder with one sub-folder a class, a .csv of path and label, or an .npz of images and labels"
_PATH_COLUMNS = frozenset({"path", "file", "filename", "image", "image_path", "file_name"})
_LABEL_COLUMNS = frozenset({"label", "class", "category", "target"})


class Item(NamedTuple):
    """An image's name and its class number."""

    name: str
    label: int


@dataclass(frozen=True)
class LabelledSet:
    """A selection of images and their classes; nothing is decoded yet."""

    title: str
    """The path, and the number of its images that are taken."""
    items: tuple[Item, ...]
    """Images in reading order; those beyond ``count`` replace images that cannot be read."""
    count: int
    """Number of images to take."""
    available: int
    """Number of images that the source holds."""
    open: Callable[[LabelledSet, ModelSpec], Source]
    """Opens the images, prepared for a model."""
    note: str = ""
    """A sentence on how the class numbers were inferred, where no file states them, or empty."""

    def stream(self, spec: ModelSpec) -> ImageStream:
        """Returns a stream of the images with their labels, as a model's preprocessing leaves them."""
        return ImageStream(self.open(self, spec), self.count)


def find_labelled(
    source: str | Path, classes: Classes, count: int | None = None, seed: int = 0, *, channels: int = 3
) -> LabelledSet:
    """Finds labelled images.

    Args:
        source: a folder with one sub-folder a class (called as the model's classes are, or else counted in the order of
            their names); a ``.csv`` with a path, relative to the file, and a class number or name in each row, with or
            without a header; an ``.npz`` of uint8 ``images`` and whole-numbered ``labels``; or images in memory, each
            with its class.
        classes: the classes of the model.
        count: how many images, drawn evenly from the classes; None takes all.
        seed: decides which are drawn.
        channels: those of the model; other than 1 and 3, class folders hold an ``.npy`` an image.

    Raises:
        BadImages: nothing is there, nothing is labelled, or labels do not fit the classes.
        BadRecipe: a count below one.
    """
    if count is not None and count < 1:
        raise BadRecipe(f"The number of images is at least 1; got {count}.")
    if isinstance(source, ImagesInMemory):
        return _held(source, classes, count, seed)
    check_labelled(source)
    path = Path(source)
    if path.is_dir():
        return _folder(path, classes, count, seed, channels)
    if path.suffix.lower() == ".csv":
        return _table(path, classes, count, seed)
    return _arrays(path, classes, count, seed, channels)


def check_labelled(source: str | Path | ImagesInMemory) -> None:
    """Refuses what holds no labelled images whatever the model, before one is loaded for them.

    Raises:
        BadImages: it is not there, or of no kind that tells classes.
    """
    if isinstance(source, ImagesInMemory):
        return  # their classes are looked at with those of the model
    if str(source) == SYNTHETIC:
        raise BadImages(f"Synthetic images have no classes: --images takes {KINDS}.")
    path = Path(source)
    if not path.exists():
        raise BadImages(f"There is no {path}; --images takes {KINDS}.")
    if path.is_dir():
        _class_folders(path)
    elif path.suffix.lower() not in (".csv", ".npz"):
        raise BadImages(f"{path} tells no classes: --images takes {KINDS}.")


def _class_folders(folder: Path) -> list[str]:
    try:
        names = [entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith(".")]
    except OSError as error:
        raise BadImages(f"{folder} cannot be listed: {error.strerror}.") from error
    if not names:
        raise BadImages(f"{folder} holds no class folders; --images takes {KINDS}.")
    return names


def _folder(folder: Path, classes: Classes, count: int | None, seed: int, channels: int) -> LabelledSet:
    names = _class_folders(folder)
    try:
        numbers, note = number_folders(names, classes)
    except BadImages as error:
        raise BadImages(f"{folder}: {error}") from error
    suffixes = SUFFIXES if takes_pictures(channels) else frozenset({ARRAY_SUFFIX})
    items = [Item(name, numbers[place]) for place in sorted(names) for name in _images_below(folder, place, suffixes)]
    if not items:
        raise BadImages(
            f"The class folders of {folder} hold no images ({', '.join(sorted(suffixes))}), which a model of "
            f"{channels} channels takes."
        )
    return _set(folder, items, count, seed, partial(_files, folder), note)


def _images_below(folder: Path, place: str, suffixes: frozenset[str]) -> Iterator[str]:
    """Yields the paths of a class folder's images, its sub-folders included, with ``/``."""
    visited: set[str] = set()
    for here, folders, files in os.walk(folder / place, followlinks=True):
        if os.path.realpath(here) in visited:
            folders.clear()
            continue
        visited.add(os.path.realpath(here))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if Path(name).suffix.lower() in suffixes and not name.startswith("."):
                yield (Path(here) / name).relative_to(folder).as_posix()


def _table(path: Path, classes: Classes, count: int | None, seed: int) -> LabelledSet:
    rows = _rows(path)
    try:
        numbers = number_labels(tuple(dict.fromkeys(label for _, label in rows)), classes)
    except BadImages as error:
        raise BadImages(f"{path}: {error}") from error
    items = [Item(name, numbers[label]) for name, label in rows]
    return _set(path, items, count, seed, partial(_files, path.parent))


def _rows(path: Path) -> list[tuple[str, str]]:
    """Returns path and label of every row of a table, without the header."""
    try:
        # utf-8-sig: spreadsheets put a mark at the beginning.
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [[cell.strip() for cell in row] for row in csv.reader(file) if any(cell.strip() for cell in row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadImages(f"{path} cannot be read as a table of paths and labels: {error}.") from error
    columns, body = _columns(rows)
    for number, row in enumerate(rows[len(rows) - len(body) :], len(rows) - len(body) + 1):
        if len(row) <= max(columns) or not row[columns[0]] or not row[columns[1]]:
            raise BadImages(f"Row {number} of {path} is {','.join(row)[:80]!r}: a row has a path and a label.")
    if not body:
        raise BadImages(f"{path} names no images: a row has a path, relative to the file, and a label.")
    return [(row[columns[0]], row[columns[1]]) for row in body]


def _columns(rows: Sequence[Sequence[str]]) -> tuple[tuple[int, int], Sequence[Sequence[str]]]:
    """Returns the columns of path and label, and the rows without the header."""
    header = [cell.casefold() for cell in rows[0]] if rows else []
    paths, labels = ([i for i, cell in enumerate(header) if cell in names] for names in (_PATH_COLUMNS, _LABEL_COLUMNS))
    if paths and labels:
        return (paths[0], labels[0]), rows[1:]
    return (0, 1), rows


def _arrays(path: Path, classes: Classes, count: int | None, seed: int, channels: int) -> LabelledSet:
    with ArrayFile(path, channels) as array:
        labels = array.labels()
    if labels is None:
        raise BadImages(f"{path} holds images and no labels; --images takes {KINDS}.")
    try:
        check_range(np.unique(labels).tolist(), classes)
    except BadImages as error:
        raise BadImages(f"{path}: {error}") from error
    items = [Item(f"{path.name} {index}", int(label)) for index, label in enumerate(labels)]
    # In the file's order, and without replacements behind: a packed file cannot be read backwards.
    places = sorted(_drawn(items, seed)[: count or len(items)])
    return LabelledSet(
        _title(path, len(places), len(items), seed),
        tuple(items[place] for place in places),
        len(places),
        len(items),
        partial(_elements, path, places),
    )


def _held(images: ImagesInMemory, classes: Classes, count: int | None, seed: int) -> LabelledSet:
    labels = [one.label for one in images.held]
    if None in labels:
        raise BadImages(
            f"Image {labels.index(None)} of {images} has no class: give pairs, such as zip(images, classes), or the "
            "batches of a DataLoader."
        )
    names = {label for label in labels if isinstance(label, str)}
    check_range({label for label in labels if isinstance(label, int)}, classes)
    numbers = number_labels(sorted(names), classes)
    items = [
        Item(f"image {index}", numbers[label] if isinstance(label, str) else cast("int", label))
        for index, label in enumerate(labels)
    ]

    def opened(found: LabelledSet, spec: ModelSpec) -> Source:
        images.check(spec)

        def candidate(index: int) -> Candidate:
            name, label = found.items[index]
            return held_candidate(images, int(name.rpartition(" ")[2]), spec, label)

        return Source(found.title, found.available, len(found.items), candidate)

    return _set(images, items, count, seed, opened)


def _set(
    path: Path | str,
    items: Sequence[Item],
    count: int | None,
    seed: int,
    open_files: Callable[[LabelledSet, ModelSpec], Source],
    note: str = "",
) -> LabelledSet:
    taken = min(count or len(items), len(items))
    drawn = tuple(items[place] for place in _drawn(items, seed)) if taken < len(items) else tuple(items)
    return LabelledSet(_title(path, taken, len(items), seed), drawn, taken, len(items), open_files, note)


def _title(path: Path | str, taken: int, available: int, seed: int) -> str:
    return (
        f"{path}, all {available} images"
        if taken == available
        else f"{path}, {taken} of {available} images, seed {seed}"
    )


def _drawn(items: Sequence[Item], seed: int) -> list[int]:
    """Returns the indices of all images in drawing order: one of each class in turn, shuffled by hash.

    The order depends on names and classes alone, and stays the same on every machine.
    """

    def shuffled(name: str) -> bytes:
        return hashlib.sha256(f"{seed}/{name}".encode("utf-8", "surrogateescape")).digest()

    columns: dict[int, list[int]] = {}
    for place, item in enumerate(items):
        columns.setdefault(item.label, []).append(place)
    rows = zip_longest(
        *(
            sorted(columns[label], key=lambda place: shuffled(items[place].name))
            for label in sorted(columns, key=lambda label: shuffled(str(label)))
        )
    )
    return [place for row in rows for place in row if place is not None]


def _files(folder: Path, found: LabelledSet, spec: ModelSpec) -> Source:
    def candidate(index: int) -> Candidate:
        name, label = found.items[index]
        path = folder / name
        return Candidate(name, partial(_decode, path, spec), path.read_bytes, label)

    return Source(found.title, found.available, len(found.items), candidate)


def _decode(path: Path, spec: ModelSpec) -> NDArray[np.uint8]:
    if not path.is_file():
        raise BadImages("there is no such file")
    if path.suffix.lower() not in {*SUFFIXES, ARRAY_SUFFIX}:
        raise BadImages(f"{path.suffix or 'a name without a suffix'} is not that of an image")
    return decode(path, spec)


def _elements(path: Path, places: Sequence[int], found: LabelledSet, spec: ModelSpec) -> Source:
    array = ArrayFile(path, spec.in_channels)

    def candidate(index: int) -> Candidate:
        place = places[index]
        name, label = found.items[index]
        return Candidate(name, lambda: prepare_image(array[place], spec), partial(array.content, place), label)

    return Source(found.title, found.available, len(found.items), candidate, array.close)
