# SPDX-License-Identifier: Apache-2.0
"""Reads how large the directory of a zip archive is, before `zipfile` makes an object of each of its entries."""

from __future__ import annotations

import struct
from pathlib import Path

LARGEST_DIRECTORY = 16 * 2**20
"""Bytes of a directory; an entry has about a hundred, and takes some six hundred in memory."""
_END, _LOCATOR = b"PK\x05\x06", b"PK\x06\x07"
_END_SIZE, _LOCATOR_SIZE, _LONGEST_COMMENT = 22, 20, 65_535
_IN_ZIP64 = 0xFFFFFFFF


def directory_size(path: Path) -> int:
    """Returns the bytes of an archive's central directory; 0 where there is no archive, which `zipfile` then refuses.

    The records are those of sections 4.3.14 to 4.3.16 of PKWARE's APPNOTE.TXT, version 6.3.10.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        length = path.stat().st_size
        start = max(0, length - _END_SIZE - _LONGEST_COMMENT - _LOCATOR_SIZE)
        file.seek(start)
        tail = file.read()
        at = tail.rfind(_END)
        if at < 0 or len(tail) - at < _END_SIZE:
            return 0
        (size,) = struct.unpack_from("<I", tail, at + 12)
        locator = at - _LOCATOR_SIZE
        if locator >= 0 and tail[locator : locator + 4] == _LOCATOR:
            # The record of 64-bit sizes lies right before its locator unless something was put before the archive.
            (offset,) = struct.unpack_from("<Q", tail, locator + 8)
            file.seek(min(offset, length))
            record = file.read(48)
            size = struct.unpack_from("<Q", record, 40)[0] if len(record) == 48 else length
        return int(size) if size != _IN_ZIP64 else length
