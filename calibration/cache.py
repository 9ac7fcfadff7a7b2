# SPDX-License-Identifier: Apache-2.0
"""A cache of calibration statistics by content, so that a model runs once over the same images.

An entry is an ``.npz``, written in one step. An entry that is damaged, foreign or of another layout is ignored and
overwritten; if an entry cannot be written, the next run only takes its time again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitedge.calibration.observations import Stats, refuse_unusable
from vitedge.errors import OutputRefused
from vitedge.files.cache import drop_oldest, find_entries, find_limit, find_root, trim
from vitedge.files.npy import write_npz
from vitedge.files.replacing import clear_debris, replacing_file
from vitedge.images.stream import ImageStream
from vitedge.progress import count, say
from vitedge.stopping import keep

LAYOUT = 3
"""Version of the entries' content; raised when that changes."""
SAVE_SECONDS = 30.0
"""Shortest time between two saves of an unfinished calibration."""
SAVE_SHARE = 30
"""Saves take at most one part in this many of the time."""
_LOG = logging.getLogger(__name__)
_DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    MemoryError,
    OverflowError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)
"""Errors that reading a damaged or foreign file raises."""

Batch = NDArray[np.uint8]
"""Pixels ``(images, channels, height, width)``."""
Step = Callable[[Batch, dict[str, Stats]], None]
"""Runs a batch and updates statistics, by the name of the activation."""


@dataclass(frozen=True, eq=False)
class Observed:
    """The result of a calibration over images."""

    stats: dict[str, Stats]
    """Name of an activation to its statistics."""
    images: int
    """Number of images."""
    sha256: str
    """SHA-256 of the pixels of these images, as `ImageStream.sha256`."""
    skipped: Mapping[str, str] = field(default_factory=dict)
    """Name of an image that could not be read, to the reason."""
    complete: bool = True
    """Whether all images were run."""


def hash_key(parts: Mapping[str, str]) -> str:
    """Returns the key of an entry: the SHA-256 of everything that decides the statistics.

    Args:
        parts: such as the digests of weights and images, the preprocessing, the version of the capture, the settings.
    """
    text = json.dumps({"layout": str(LAYOUT), **parts}, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def find_folder() -> Path:
    """Returns where entries lie: ``calibration`` in the user's cache (`vitedge.files.cache`)."""
    return find_root() / "calibration"


class Cache:
    """A folder of calibration statistics.

    Args:
        folder: created when something is written; None for the user's cache (`find_folder`).
        limit: largest size of the folder in bytes; above it the least recently used entries are deleted. None for the
            limit of the user's whole cache.
    """

    def __init__(self, folder: Path | None = None, limit: int | None = None) -> None:
        self.folder = find_folder() if folder is None else folder
        self._limit = limit

    def read(self, key: str) -> Observed | None:
        """Returns the entry of a key, complete or not; None where there is none that can be read."""
        path = self._path(key)
        try:
            # Opened here: NumPy leaves a file open that it cannot read.
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                found = _unpack(arrays)
            os.utime(path)  # used now, so deleted last
        except _DAMAGE:
            return None
        return found

    def write(self, key: str, observed: Observed) -> None:
        """Writes the entry of a key, in place of an earlier one.

        Raises:
            OutputRefused: the folder cannot be written, or the disk is full; an earlier entry is left as it was.
        """
        path = self._path(key)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputRefused(f"{self.folder} cannot be written: {error.strerror or error}.") from error
        clear_debris(path)
        with replacing_file(path) as partial, partial.open("wb") as file:
            write_npz(file, _pack(observed))
        if self._limit is None:
            trim(find_limit()[0], path)
        else:
            drop_oldest(list(find_entries(self.folder)), self._limit, path)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.npz"


def resumable(
    stream: ImageStream,
    key: str,
    batch: int,
    step: Step,
    cache: Cache | None = None,
) -> Observed:
    """Runs a calibration, continuing an interrupted one of the same key; a finished one is read from the cache.

    The result is bit for bit that of a run without interruption, where the batch size is the same.

    Args:
        stream: the images.
        key: of everything that decides the statistics (`hash_key`), the images by `ImageStream.fingerprint`.
        batch: number of images of a batch.
        step: runs a batch and updates the statistics; it adds their names at the first batch.
        cache: of the statistics; None for the user's.

    Returns:
        The complete statistics.

    Raises:
        BadImages: as the stream raises it.
        UnusableActivations: an activation holds NaN or infinity; raised after the first such batch.
    """
    calibration = _Calibration(stream, key, cache or Cache())
    done = calibration.begin()
    if done is not None:
        return done
    here = count(stream.count, calibration.images, unit="image")
    for pixels in stream.batches(batch, start=calibration.images):
        step(pixels, calibration.stats)
        refuse_unusable(calibration.stats)
        calibration.advance(pixels)
        here.advance(len(pixels))
    return calibration.finish()


class _Calibration:
    """The state of a calibration: the images so far, and when it was last saved."""

    def __init__(self, stream: ImageStream, key: str, cache: Cache) -> None:
        self.stats: dict[str, Stats] = {}
        self.images = 0
        self._stream, self._key, self._cache = stream, key, cache
        self._begun = time.monotonic()
        self._save_at = self._begun + SAVE_SECONDS
        self._refused = False
        self._digest = hashlib.sha256()

    def begin(self) -> Observed | None:
        """Reads the entry in the cache; returns it if it is complete, and continues from it otherwise."""
        found = self._cache.read(self._key)
        if found is None:
            return None
        if found.complete:
            say(f"calibration: {found.images} images, from {self._cache.folder}")
            self._keep(found)
            return found
        if self._same_images(found.images, found.sha256):
            self.stats, self.images = found.stats, found.images
            say(f"calibration: goes on after image {found.images} of {self._stream.count}")
            self._keep(found)
        return None

    def advance(self, pixels: Batch) -> None:
        """Counts images that were run, and saves where it is time."""
        self.images += len(pixels)
        self._digest.update(pixels.data)
        now = time.monotonic()
        if now >= self._save_at:
            self._save(self._observed(complete=False))
            taken = time.monotonic() - now
            self._save_at = now + max(SAVE_SECONDS, SAVE_SHARE * taken)

    def finish(self) -> Observed:
        """Saves and returns the complete statistics."""
        observed = self._observed(complete=True)
        self._save(observed)
        _LOG.info("calibration: %d images in %.1f s", self.images, time.monotonic() - self._begun)
        return observed

    def _observed(self, *, complete: bool) -> Observed:
        return Observed(self.stats, self.images, self._digest.hexdigest(), dict(self._stream.skipped), complete)

    def _save(self, observed: Observed) -> None:
        if self._refused:
            return
        try:
            self._cache.write(self._key, observed)
        except OutputRefused as refused:
            self._refused = True
            say(f"the calibration is not cached for the next run: {refused}")
        else:
            self._keep(observed)

    def _keep(self, observed: Observed) -> None:
        """Notes what is left of the calibration if the command is stopped from now on."""
        seen = f"{observed.images} images" if observed.complete else f"{observed.images} of {self._stream.count} images"
        keep("calibration", f"the calibration of {seen}; the same command goes on from there.")

    def _same_images(self, images: int, sha256: str) -> bool:
        """Returns whether the stream begins with the images of an interrupted run.

        It reads them for that, in a fraction of the time that the model takes.
        """
        digest = hashlib.sha256()
        for pixels in islice(self._stream.batches(1), images):
            digest.update(pixels.data)
        if digest.hexdigest() != sha256:
            return False
        self._digest = digest
        return True


def _pack(observed: Observed) -> dict[str, NDArray[Any]]:
    """Converts to arrays; whatever is no array becomes JSON in one of them."""
    about = {
        "layout": LAYOUT,
        "names": list(observed.stats),
        "images": observed.images,
        "sha256": observed.sha256,
        "skipped": dict(observed.skipped),
        "complete": observed.complete,
    }
    arrays = {"about": np.frombuffer(json.dumps(about).encode(), np.uint8)}
    for index, stats in enumerate(observed.stats.values()):
        arrays.update({f"{index}.{field_name}": array for field_name, array in stats.to_arrays().items()})
    return arrays


def _unpack(arrays: Mapping[str, NDArray[Any]]) -> Observed:
    """Converts back from the arrays of `_pack`; raises one of `_DAMAGE` for any others."""
    about = json.loads(bytes(arrays["about"]).decode())
    if about["layout"] != LAYOUT:
        raise ValueError(f"layout {about['layout']}")
    fields: dict[int, dict[str, NDArray[Any]]] = {index: {} for index in range(len(about["names"]))}
    for name in arrays:
        if name != "about":
            index, _, field_name = name.partition(".")
            fields[int(index)][field_name] = arrays[name]
    stats = {name: Stats.from_arrays(fields[index]) for index, name in enumerate(about["names"])}
    return Observed(
        stats, int(about["images"]), str(about["sha256"]), dict(about["skipped"]), about["complete"] is True
    )
