# SPDX-License-Identifier: Apache-2.0
"""Reads the header of an ``.npy`` file, so that it can be checked before the array is allocated; writes ``.npz``.

NumPy parses it, and evaluates or unpickles nothing of it. The format is described in
https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html.
"""

from __future__ import annotations

import io
import math
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy_format

_npy: Any = npy_format  # NumPy leaves its functions without annotations
_READERS = {(1, 0): _npy.read_array_header_1_0, (2, 0): _npy.read_array_header_2_0}
_LIMIT = 10_000
"""Most bytes of a header that are read, as many as NumPy parses; a plain array's has about a hundred."""


@dataclass(frozen=True)
class ArrayHeader:
    """A parsed header of an ``.npy`` file."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    """Element type; ``dtype.hasobject`` is true where the elements are a pickle."""
    fortran_order: bool
    start: int
    """Bytes before the first element."""

    @property
    def file_size(self) -> int:
        """Bytes that the whole file has, if it is neither cut short nor damaged nor a pickle."""
        return self.start + math.prod(self.shape) * self.dtype.itemsize


def read_header(file: IO[bytes]) -> ArrayHeader:
    """Reads the header of an ``.npy`` file, and leaves the file at the first element.

    Args:
        file: open at its beginning, and seekable; a member of an archive will do. At most 10 kB of it are read.

    Raises:
        ValueError: it is no such file, cut short within the header, or of a format for other than plain arrays; with
            one short sentence, without its full stop.
    """
    head = io.BytesIO(file.read(_npy.MAGIC_LEN + 4 + _LIMIT))
    try:
        version = _npy.read_magic(head)
    except ValueError as error:
        raise ValueError("it does not begin as an .npy file does") from error
    if version not in _READERS:
        raise ValueError(f"NumPy format {version[0]}.{version[1]} is not for plain arrays")
    try:
        shape, fortran_order, dtype = _READERS[version](head)
    except Exception as error:  # NumPy lets through whatever Python's tokenizer, its parser and its own types raise
        raise ValueError("its header is cut short, or does not describe an array") from error
    if any(isinstance(size, bool) or not 0 <= size <= sys.maxsize for size in shape):
        raise ValueError("its header has a dimension that no array has")
    if dtype.itemsize < 0:  # as NumPy 1.26 takes a number beyond all integers
        raise ValueError("its header has a type that no array has")
    start = head.tell()
    file.seek(start)
    return ArrayHeader(shape, dtype, fortran_order, start)


def write_npz(file: Path | IO[bytes], arrays: Mapping[str, np.ndarray[Any, Any]], *, compressed: bool = False) -> None:
    """Writes arrays as an ``.npz``; the same content gives the same bytes.

    `numpy.savez` itself pickles objects before NumPy 2.1, and where the disk is full leaves an archive behind that
    complains when it is collected.

    Args:
        file: a path, or a file that can be written.
        arrays: name to array.
        compressed: take less space, and more time.

    Raises:
        ValueError: an array is of Python objects.
    """
    kind = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with zipfile.ZipFile(file, "w", kind) as archive:
        for name, values in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                _npy.write_array(entry, values, allow_pickle=False)
