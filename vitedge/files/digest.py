# SPDX-License-Identifier: Apache-2.0
"""SHA-256 of files and folders, by which a manifest identifies its files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

_CHUNK = 1 << 20


def hash_file(path: Path) -> str:
    """Returns the SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def hash_listing(files: Mapping[str, str]) -> str:
    """Returns the SHA-256 of several files: of the sorted lines ``HASH  NAME``, as ``sha256sum`` prints them."""
    listing = "".join(f"{digest}  {name}\n" for name, digest in sorted(files.items()))
    return hashlib.sha256(listing.encode()).hexdigest()
