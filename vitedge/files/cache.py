# SPDX-License-Identifier: Apache-2.0
"""The user's cache: where it is, how large it is, and the limit that it keeps to by itself.

An entry is a file or a folder in one of the cache's folders (`KINDS`). Its time of change is that of its last use. Any
entry may go at any time: whoever wrote it computes it again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from vitedge.errors import BadRecipe, OutputRefused
from vitedge.files.replacing import PARTIAL, write_file

KINDS: Mapping[str, str] = {
    "calibration": "statistics of activations, a model with its images and settings each",
    "pruning": "results of prunings that were not finished",
}
"""Folder of the cache to what its entries are."""
DEFAULT_LIMIT = 2 * 10**9
"""Bytes that the cache keeps to, where neither `LIMIT_VARIABLE` nor the user's choice says otherwise."""
LIMIT_VARIABLE = "VITEDGE_CACHE_LIMIT"
_CHOSEN = "limit"
"""File with the limit that the user chose."""
_ABANDONED_S = 86400.0
"""Seconds after which a temporary file belongs to nobody."""
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)b?", re.IGNORECASE)
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """One entry."""

    path: Path
    size: int
    """Bytes."""
    used: float
    """When it was last used, in seconds since 1970."""


@dataclass(frozen=True)
class CacheKind:
    """The entries of one kind."""

    name: str
    holds: str
    entries: int
    size: int
    """Bytes."""


@dataclass(frozen=True)
class CacheUsage:
    """What is in the cache."""

    folder: str
    limit: int
    """Bytes above which the least recently used entries are dropped."""
    limit_from: str
    """What says so: the default, the user's choice, or the variable of the environment."""
    kinds: tuple[CacheKind, ...]
    dropped: int = 0
    """Number of entries that this command dropped."""

    @property
    def size(self) -> int:
        """Bytes of all entries."""
        return sum(kind.size for kind in self.kinds)


def find_root() -> Path:
    """Returns the folder of the cache: ``$VITEDGE_CACHE``, or ``vitedge`` in the user's cache.

    The latter is where the platform has it, such as ``~/.cache``, ``$XDG_CACHE_HOME`` or ``~/Library/Caches``.
    """
    if named := os.environ.get("VITEDGE_CACHE"):
        return Path(named).expanduser()
    return platformdirs.user_cache_path("vitedge", appauthor=False)


def find_limit() -> tuple[int, str]:
    """Returns the bytes that the cache keeps to, and what says so.

    Raises:
        BadRecipe: the variable of the environment is no size.
    """
    if named := os.environ.get(LIMIT_VARIABLE):
        return parse_size(named, LIMIT_VARIABLE), LIMIT_VARIABLE
    with contextlib.suppress(OSError, BadRecipe):
        return parse_size((find_root() / _CHOSEN).read_text(encoding="utf-8"), _CHOSEN), "chosen"
    return DEFAULT_LIMIT, "default"


def choose_limit(size: int) -> int:
    """Keeps a limit in bytes for all later commands; returns the number of entries that were dropped for it.

    Raises:
        OutputRefused: the cache cannot be written.
    """
    root = find_root()
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputRefused(f"{root} cannot be written: {error.strerror or error}.") from error
    write_file(root / _CHOSEN, f"{size}\n".encode())
    return trim(find_limit()[0])


def parse_size(text: str, where: str) -> int:
    """Returns the bytes of a size such as ``500MB`` or ``2GB``, in decimal units.

    Raises:
        BadRecipe: it is none.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise BadRecipe(f"{where} takes a size such as 500MB or 2GB; got {text.strip()!r}.")
    return int(float(found[1]) * _UNITS[found[2].lower()])


def find_usage(dropped: int = 0) -> CacheUsage:
    """Returns what is in the cache.

    Args:
        dropped: number of entries that were dropped just before.
    """
    limit, said_by = find_limit()
    kinds = []
    for name, holds in KINDS.items():
        found = list(find_entries(find_root() / name))
        kinds.append(CacheKind(name, holds, len(found), sum(entry.size for entry in found)))
    return CacheUsage(str(find_root()), limit, said_by, tuple(kinds), dropped)


def find_entries(folder: Path) -> Iterator[Entry]:
    """Yields the entries of a folder; another process may add and delete some meanwhile."""
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            with contextlib.suppress(OSError):
                if not path.name.endswith(PARTIAL):
                    yield _entry(path)


def _entry(path: Path) -> Entry:
    if not path.is_dir():
        about = path.stat()
        return Entry(path, about.st_size, about.st_mtime)
    files = [file.stat() for file in path.iterdir()]
    times = [path.stat().st_mtime, *(file.st_mtime for file in files)]
    return Entry(path, sum(file.st_size for file in files), max(times))


def clear() -> int:
    """Drops every entry; returns their number."""
    return trim(-1)


def trim(limit: int, kept: Path | None = None) -> int:
    """Drops the least recently used entries above a limit; returns their number.

    Args:
        limit: bytes of all entries together.
        kept: an entry that stays whatever its size, such as the one that was just written.
    """
    _clear_abandoned()
    found = [entry for name in KINDS for entry in find_entries(find_root() / name)]
    return drop_oldest(found, limit, kept)


def drop_oldest(entries: list[Entry], limit: int, kept: Path | None = None) -> int:
    """Drops the least recently used of some entries, as `trim` does; returns their number."""
    total = dropped = freed = 0
    for entry in sorted(entries, key=lambda one: (one.path == kept, one.used), reverse=True):
        total += entry.size
        if total > limit and entry.path != kept and _drop(entry.path):
            dropped, freed = dropped + 1, freed + entry.size
    if dropped:
        _LOG.info("dropped from the cache: %d entries of %.1f MB", dropped, freed / 1e6)
    return dropped


def _drop(path: Path) -> bool:
    """Deletes an entry; returns False where another process was quicker or has it open."""
    with contextlib.suppress(OSError):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        return True
    return False


def _clear_abandoned() -> None:
    """Deletes temporary files of commands that were killed long ago."""
    for name in KINDS:
        for path in (find_root() / name).rglob(f".*{PARTIAL}"):
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < time.time() - _ABANDONED_S:
                    path.unlink()
