# SPDX-License-Identifier: Apache-2.0
"""Observations kept by content, so that the same images through the same model are walked once.

An entry is an ``.npz``, written in one step. What is damaged, foreign or of another layout is taken for nothing and
written anew; what cannot be written costs the next run its time and nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
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
from vitedge.files.replacing import clear_debris, replacing_file
from vitedge.images.stream import ImageStream

LAYOUT = 2
"""Counted up when what is kept, or how, changes."""
MAX_BYTES = 2 * 2**30
SAVE_SECONDS = 30.0
SAVE_SHARE = 30
"""Progress is saved so seldom that this takes at most one part in so many of the time."""
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
"""What reading a damaged or foreign file raises."""

Batch = NDArray[np.uint8]
Step = Callable[[Batch, dict[str, Stats]], None]


@dataclass(frozen=True, eq=False)
class Observed:
    """What one walk over the images has seen."""

    stats: dict[str, Stats]
    """Name of an activation to what was kept of it."""
    images: int
    sha256: str
    """Of the pixels of these images, as `ImageStream.sha256`."""
    skipped: Mapping[str, str] = field(default_factory=dict)
    """Name of an image that could not be read, to the reason."""
    complete: bool = True
    """Whether all images were walked."""


def hash_key(parts: Mapping[str, str]) -> str:
    """The key of an entry: SHA-256 of everything that decides what the observations are.

    Args:
        parts: such as the digests of weights and images, the preprocessing, the version of the capture, the settings.
    """
    text = json.dumps({"layout": str(LAYOUT), **parts}, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def find_folder(environment: Mapping[str, str] | None = None) -> Path:
    """Where entries lie: ``$VITEDGE_CACHE/calibration``, or ``vitedge/calibration`` in the user's cache.

    Args:
        environment: the variables; those of the process without.
    """
    variables = os.environ if environment is None else environment
    if named := variables.get("VITEDGE_CACHE"):
        return Path(named).expanduser() / "calibration"
    # The specification of XDG has relative paths ignored.
    base = Path(variables.get("XDG_CACHE_HOME") or "")
    return (base if base.is_absolute() else Path.home() / ".cache") / "vitedge" / "calibration"


class Cache:
    """A folder of observations.

    Args:
        folder: where they lie; made when something is written. The user's without.
        limit: bytes; beyond that what was not used for longest is deleted.
    """

    def __init__(self, folder: Path | None = None, limit: int = MAX_BYTES) -> None:
        self.folder = find_folder() if folder is None else folder
        self._limit = limit

    def read(self, key: str) -> Observed | None:
        """What is kept under a key, complete or not; None where nothing is, or nothing that can be read."""
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
        """Keeps observations in place of what was under the key.

        Raises:
            OutputRefused: the folder cannot be written, or the disk is full; what was there is left.
        """
        path = self._path(key)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputRefused(f"{self.folder} cannot be written: {error.strerror or error}.") from error
        clear_debris(path)
        with replacing_file(path) as partial, partial.open("wb") as file:
            np.savez(file, allow_pickle=False, **_pack(observed))
        self._delete_oldest(path)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.npz"

    def _delete_oldest(self, written: Path) -> None:
        """Keeps within the limit; what was written just now stays in any case."""
        entries = []
        for path in self.folder.glob("*.npz"):
            with contextlib.suppress(OSError):  # another process may have deleted it
                entries.append((path == written, path.stat().st_mtime, path.stat().st_size, path))
        total = 0
        for newest, _, size, path in sorted(entries, reverse=True):
            total += size
            if total > self._limit and not newest:
                with contextlib.suppress(OSError):
                    path.unlink()


def resumable(
    stream: ImageStream,
    key: str,
    batch: int,
    step: Step,
    progress: Callable[[str], None],
    cache: Cache | None = None,
) -> Observed:
    """Walks the images once, from where an interrupted run under the same key stopped; not at all if one finished.

    The result is bit for bit that of a run without interruption, where the batch is the same.

    Args:
        stream: the images.
        key: everything that decides what is observed (`hash_key`), the images by `ImageStream.fingerprint`.
        batch: images of a batch.
        step: gets the pixels ``(images, channels, height, width)`` uint8 and updates the observations by name; names
            are put in by it at the first batch.
        progress: gets one line now and then, at most once a second and once at the end.
        cache: where entries lie; the user's without.

    Raises:
        BadImages: as the stream does.
        UnusableActivations: NaN or infinity was seen; with the batch that brought it.
    """
    walk = _Walk(stream, key, cache or Cache(), progress)
    done = walk.begin()
    if done is not None:
        return done
    for pixels in stream.batches(batch, start=walk.images):
        step(pixels, walk.stats)
        refuse_unusable(walk.stats)
        walk.advance(pixels)
    return walk.finish()


class _Walk:
    """How far a walk over the images has come, and when that was last saved and told."""

    def __init__(self, stream: ImageStream, key: str, cache: Cache, progress: Callable[[str], None]) -> None:
        self.stats: dict[str, Stats] = {}
        self.images = 0
        self._stream, self._key, self._cache, self._progress = stream, key, cache, progress
        self._begun = self._told = time.monotonic()
        self._save_at = self._begun + SAVE_SECONDS
        self._resumed = 0
        self._refused = False
        self._digest = hashlib.sha256()

    def begin(self) -> Observed | None:
        """Takes up what is in the cache; if that is complete, there it is."""
        found = self._cache.read(self._key)
        if found is None:
            return None
        if found.complete:
            self._progress(f"Calibration: {found.images} images, from {self._cache.folder}.")
            return found
        if self._same_images(found.images, found.sha256):
            self.stats, self.images, self._resumed = found.stats, found.images, found.images
            self._progress(f"Calibration: goes on after image {found.images} of {self._stream.count}.")
        return None

    def advance(self, pixels: Batch) -> None:
        """Counts images whose observations are in."""
        self.images += len(pixels)
        self._digest.update(pixels.data)
        now = time.monotonic()
        if now >= self._told + 1.0:
            self._told = now
            speed = (self.images - self._resumed) / (now - self._begun)
            self._progress(f"Calibration: {self.images} of {self._stream.count} images, {speed:.1f} a second.")
        if now >= self._save_at:
            self._save(self._observed(complete=False))
            taken = time.monotonic() - now
            self._save_at = now + max(SAVE_SECONDS, SAVE_SHARE * taken)

    def finish(self) -> Observed:
        """Saves the whole."""
        observed = self._observed(complete=True)
        self._save(observed)
        self._progress(f"Calibration: {self.images} images in {time.monotonic() - self._begun:.1f} s.")
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
            self._progress(f"Calibration is not kept for the next run: {refused}")

    def _same_images(self, images: int, sha256: str) -> bool:
        """Whether the stream begins with the images that an interrupted run has seen.

        They are read for it, in a fraction of the time that the model takes.
        """
        digest = hashlib.sha256()
        for pixels in islice(self._stream.batches(1), images):
            digest.update(pixels.data)
        if digest.hexdigest() != sha256:
            return False
        self._digest = digest
        return True


def _pack(observed: Observed) -> dict[str, NDArray[Any]]:
    """As arrays: what is not one is JSON."""
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
    """The reverse; raises one of `_DAMAGE` for anything else."""
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
