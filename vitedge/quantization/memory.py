# SPDX-License-Identifier: Apache-2.0
"""What a process holds of the memory that it freed."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_M_MMAP_THRESHOLD = -3
_LARGE = 4 * 2**20
_USUAL = 32 * 2**20
"""The most that glibc itself raises the threshold to (mallopt(3))."""


@contextmanager
def freed_at_once() -> Iterator[None]:
    """Has large tensors returned to the system when they are freed, for jobs that make many of ever other sizes.

    glibc keeps blocks of up to 32 MiB, and where the next ones do not fit between them it takes more: quantizing a
    ViT-B then peaks anywhere between 2.8 and 3.8 GB, and at 1.9 GB this way. What runs the same sizes over and over,
    such as a batch after the other, is faster without. Where there is no glibc nothing is done.
    """
    allocator = _glibc()
    if allocator is None:
        yield
        return
    allocator.malloc_trim(0)
    allocator.mallopt(_M_MMAP_THRESHOLD, _LARGE)
    try:
        yield
    finally:
        allocator.mallopt(_M_MMAP_THRESHOLD, _USUAL)


def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None
