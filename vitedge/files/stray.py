# SPDX-License-Identifier: Apache-2.0
"""Files that operating systems and download tools leave in folders, and that are nobody's content."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import PurePosixPath

FILES = (
    ".DS_Store",
    "._*",
    ".localized",
    "Icon\r",
    "Thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    ".directory",
    ".nfs*",
    ".fuse_hidden*",
)
"""Patterns of file names: macOS, Windows, KDE, network and user-space file systems."""
FOLDERS = (
    "__MACOSX",
    ".Spotlight-V100",
    ".Trashes",
    ".fseventsd",
    ".TemporaryItems",
    "$RECYCLE.BIN",
    "System Volume Information",
    "@eaDir",
    "lost+found",
)
"""Names of folders all of whose files are such: macOS and its archives, Windows, Synology, ext4."""
HUB = (".cache", "huggingface")
"""The folder in which the Hugging Face client keeps what it knows of a download, at the top."""


def is_stray(name: str) -> bool:
    """Returns whether a path, relative to a folder and with slashes, is one that a known system leaves behind."""
    parts = PurePosixPath(name).parts
    if parts[:2] == HUB or any(part in FOLDERS for part in parts[:-1]):
        return True
    return any(fnmatchcase(parts[-1].lower(), pattern.lower()) for pattern in FILES)
