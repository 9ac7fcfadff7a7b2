# SPDX-License-Identifier: Apache-2.0
"""Keeps the artifacts of an export that exceeded a tolerance, in a folder that says so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vitedge.errors import ToleranceExceeded
from vitedge.files.replacing import refuse_existing, replacing

FAILED = "FAILED.txt"
"""File of such a folder that says what is wrong with it."""
_SUFFIX = ".failed"


def failed_folder(bundle: Path) -> Path:
    """Returns the folder beside a bundle where its artifacts are kept if they fail."""
    return bundle.with_name(f"{bundle.name}{_SUFFIX}")


def refuse_failed_folder(bundle: Path) -> None:
    """Refuses, before any work is done, to keep artifacts where something else is.

    Raises:
        OutputRefused: the folder is there, and no earlier command of ours has left it.
    """
    refuse_existing(failed_folder(bundle), force=True)


@contextmanager
def keeping_failed(folder: Path, bundle: Path, seal: Callable[[], object], *, asked: bool) -> Iterator[None]:
    """Has artifacts that exceed a tolerance in the block kept where that was asked for, and else names the option.

    Args:
        folder: the unfinished bundle.
        bundle: the place that it is meant for, which stays as it is.
        seal: writes the manifest, of all files that are there.
        asked: whether they are kept.

    Raises:
        ToleranceExceeded: as the block raises it; the sentence says where they are.
        OutputRefused: they cannot be kept there.
    """
    try:
        yield
    except ToleranceExceeded as failed:
        if not asked:
            raise ToleranceExceeded(f"{failed} Nothing was written; --keep-failed keeps it for a look.") from failed
        (folder / FAILED).write_text(_reason(str(failed)), encoding="utf-8")
        seal()
        kept = failed_folder(bundle)
        with replacing(kept, force=True) as place:
            for path in folder.iterdir():
                path.rename(place / path.name)
        raise ToleranceExceeded(f"{failed} What failed is kept in {kept}, see {FAILED} there.") from failed


def _reason(sentence: str) -> str:
    return (
        f"These artifacts failed a check of vitedge and must not be shipped.\n\n{sentence}\n\n"
        "They were kept because --keep-failed was given: vitedge validate shows the check again, with --against\n"
        "CHECKPOINT --layers layer by layer, and vitedge bench measures them.\n"
    )
