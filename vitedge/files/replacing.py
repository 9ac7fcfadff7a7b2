# SPDX-License-Identifier: Apache-2.0
"""Writes outputs so that a killed or failed command leaves what was there before.

Everything is written beside its place under a hidden temporary name, and moved into place in one
step. A directory that replaces another is exchanged with it by the file system itself where it can do so.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import glob
import hashlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from vitedge.errors import OutputRefused
from vitedge.files.json_file import read_json
from vitedge.files.stray import is_stray

PARTIAL = ".partial"
COMPARISON = "comparison.json"
LISTINGS = ("manifest.json", "kit.json", COMPARISON)
"""Files that list what is in a folder of ours; one of them makes it one that may be replaced."""
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_LARGEST_LISTING = 64 * 2**20
_LONGEST_NAME = 200
"""Bytes of a target's name in its temporary names; file systems allow 255 with what is put around it."""
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_MACOS_AT_FDCWD = -2
_SYNCHRONIZE, _WAIT_TIMEOUT, _ERROR_ACCESS_DENIED = 0x0010_0000, 0x102, 5
"""Of Windows: the right to wait for a process to end, the answer while it runs, and that it is another user's."""


@contextlib.contextmanager
def replacing(target: Path, *, force: bool, needs: int = 0) -> Iterator[Path]:
    """Yields a fresh directory beside ``target`` that takes its place when the block ends without an error.

    Args:
        target: the directory to write.
        force: replace what is there; without it an existing target is refused.
        needs: bytes that will be written, as far as known; checked against the free space first.

    Raises:
        OutputRefused: the target exists, cannot be written, or the disk is or would be full.
    """
    refuse_existing(target, force=force)
    # Where a link or a dot leads to is replaced; the messages keep what the user typed.
    place = Path(os.path.realpath(target))
    clear_debris(place)
    partial = place.parent / f".{_stem(place)}.{os.getpid()}{PARTIAL}"
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        _refuse_full(place.parent, needs)
        partial.mkdir()
        yield partial
        _move(partial, place)
    except OSError as error:
        raise _refused(target, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_file(target: Path, content: bytes) -> None:
    """Writes one file in one step.

    Raises:
        OutputRefused: it cannot be written, or the disk is full.
    """
    with replacing_file(target) as partial:
        partial.write_bytes(content)


@contextlib.contextmanager
def replacing_file(target: Path) -> Iterator[Path]:
    """Yields a name beside ``target``; the file written there takes its place when the block ends without an error.

    Raises:
        OutputRefused: it cannot be written, or the disk is full.
    """
    partial = target.parent / f".{_stem(target)}.{os.getpid()}{PARTIAL}"
    try:
        yield partial
        partial.replace(target)
    except OSError as error:
        raise _refused(target, error) from error
    finally:
        partial.unlink(missing_ok=True)


def refuse_existing_file(target: Path, *, force: bool) -> None:
    """Refuses an output file that is already there, before any work is done.

    Raises:
        OutputRefused: the target exists and ``force`` is off, or is a folder, or its folder does not exist.
    """
    if target.is_dir():
        raise OutputRefused(f"{target} is a folder; name a file in it.")
    if os.path.lexists(target) and not force:
        raise OutputRefused(f"{target} is already there; name another output, or add --force to replace it.")
    if not target.parent.is_dir():
        raise OutputRefused(f"There is no folder {target.parent} to write {target.name} into.")


def refuse_existing(target: Path, *, force: bool) -> None:
    """Refuses an output that is already there, before any work is done.

    Raises:
        OutputRefused: the target exists and ``force`` is off, or it is something that must not be replaced.
    """
    if not os.path.lexists(target):
        return
    if not force:
        raise OutputRefused(f"{target} is already there; name another output, or add --force to replace it.")
    ours = any((target / name).is_file() for name in LISTINGS)
    replaceable = target.is_dir() and (ours or not any(target.iterdir()))
    if not replaceable:
        raise OutputRefused(f"{target} is not a bundle, so --force does not replace it; name another output.")
    if strangers := _strangers(target):
        raise OutputRefused(
            f"{target} holds {strangers[0]}, which is no part of the bundle and --force would remove; "
            "move it, or name another output."
        )


def _strangers(bundle: Path) -> list[str]:
    """Returns files that the manifest does not list, such as a checkpoint; none if the manifest cannot be read."""
    listing = next((name for name in LISTINGS if (bundle / name).is_file()), LISTINGS[0])
    try:
        manifest = read_json(bundle / listing, _LARGEST_LISTING)
        known = {listing, *manifest["files"]}
        known.update(name for artifact in manifest["artifacts"] for name in artifact["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return []
    present = sorted(path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if not path.is_dir())
    return [name for name in present if not (name in known or is_stray(name) or Path(name).name.startswith("."))]


def clear_debris(target: Path) -> None:
    """Removes temporary files of killed runs beside the target, and restores a target that they had renamed.

    A partial of a process that still runs is left alone.
    """
    if not target.parent.is_dir():
        return
    if _set_aside(target).exists() and not os.path.lexists(target):
        _set_aside(target).rename(target)
    for path in target.parent.glob(f".{glob.escape(_stem(target))}.*{PARTIAL}"):
        owner = path.name[len(_stem(target)) + 2 : -len(PARTIAL)]
        if owner == "old" or (owner.isdigit() and not _is_running(int(owner))):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _is_running(pid: int) -> bool:
    if pid == os.getpid():
        return False
    if sys.platform == "win32":  # where signal 0 is Ctrl-C
        kernel = ctypes.WinDLL("kernel32", use_last_error=True)
        process = kernel.OpenProcess(_SYNCHRONIZE, False, pid)  # noqa: FBT003 - the system's own function
        if not process:
            return ctypes.get_last_error() == _ERROR_ACCESS_DENIED
        state = kernel.WaitForSingleObject(process, 0)
        kernel.CloseHandle(process)
        return bool(state == _WAIT_TIMEOUT)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _refuse_full(folder: Path, needs: int) -> None:
    free = shutil.disk_usage(folder).free
    if needs > free:
        raise OutputRefused(
            f"{folder} has {free / 1e6:.0f} MB free and this needs about {needs / 1e6:.0f} MB; "
            "free some space or name an output on another disk."
        )


def _refused(target: Path, error: OSError) -> OutputRefused:
    if error.errno in _FULL:
        return OutputRefused(f"The disk of {target} is full; nothing was written. Free some space and run it again.")
    return OutputRefused(f"{target} cannot be written: {error.strerror or error}.")


def _move(partial: Path, target: Path) -> None:
    if not os.path.lexists(target):
        partial.rename(target)
    elif not _exchange(partial, target):
        # No exchange on this file system: if this is killed in between, clear_debris puts the old bundle back.
        old = _set_aside(target)
        target.rename(old)
        partial.rename(target)
        shutil.rmtree(old, ignore_errors=True)


def _stem(target: Path) -> str:
    """Returns the name that temporary names begin with: the target's, or the start of a long one and a hash of it."""
    name = os.fsencode(target.name)
    if len(name) <= _LONGEST_NAME:
        return target.name
    return f"{name[: _LONGEST_NAME - 20].decode(errors='ignore')}.{hashlib.sha256(name).hexdigest()[:16]}"


def _set_aside(target: Path) -> Path:
    return target.parent / f".{_stem(target)}.old{PARTIAL}"


def _exchange(partial: Path, target: Path) -> bool:
    """Swaps two directories in one step; returns False where the system cannot."""
    if os.name != "posix":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    first, second = os.fsencode(partial), os.fsencode(target)
    if sys.platform == "linux" and hasattr(libc, "renameat2"):
        return bool(libc.renameat2(_AT_FDCWD, first, _AT_FDCWD, second, _RENAME_EXCHANGE) == 0)
    if sys.platform == "darwin" and hasattr(libc, "renameatx_np"):
        return bool(libc.renameatx_np(_MACOS_AT_FDCWD, first, _MACOS_AT_FDCWD, second, _RENAME_EXCHANGE) == 0)
    return False
