# SPDX-License-Identifier: Apache-2.0
"""Reads NumPy archives (``.npz``), the format of Google's ViT checkpoints."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy_format

from vitedge.checkpoints.families.family import State
from vitedge.errors import RefusedPickle, UnreadableCheckpoint
from vitedge.files.npy import read_header
from vitedge.sentences import short

npy: Any = npy_format  # NumPy leaves its functions without annotations

MOST_EXPANSION = 100
"""Largest allowed ratio of unpacked to packed bytes; weights hardly compress at all."""
FREE_EXPANSION = 64 * 2**20


def read_npz(path: Path, archive: zipfile.ZipFile) -> State:
    """Returns the numeric arrays of an archive as tensors, under their names without ``.npy``.

    Raises:
        RefusedPickle: an array of Python objects.
        UnreadableCheckpoint: a member whose size contradicts its header, or which expands beyond reason.
    """
    members = [member for member in archive.infolist() if not member.is_dir()]
    total = sum(member.file_size for member in members)
    if total > MOST_EXPANSION * path.stat().st_size + FREE_EXPANSION:
        raise UnreadableCheckpoint(f"{path} is refused: it would expand to {total} bytes; check where it comes from.")
    try:
        tensors = {member.filename[: -len(".npy")]: _read(path, archive, member) for member in members}
    except UnreadableCheckpoint:
        raise
    except Exception as error:
        # zlib, zipfile and NumPy each raise their own kinds for the same thing: bytes that are not what they should be.
        raise UnreadableCheckpoint(
            f"{path} is damaged: NumPy cannot read it ({short(error)}); fetch it again."
        ) from error
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


def _read(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> torch.Tensor | None:
    with archive.open(member) as stream:
        header = read_header(stream)
    if header.dtype.hasobject:
        raise RefusedPickle(
            f"{path} is refused because {member.filename} is a pickle of Python objects; "
            "save plain arrays with numpy.savez."
        )
    if header.file_size != member.file_size:
        raise UnreadableCheckpoint(
            f"{path} is cut short or damaged: {member.filename} does not have the bytes that its header declares; "
            "fetch it again."
        )
    with archive.open(member) as stream:
        return _tensor(npy.read_array(stream, allow_pickle=False))


def _tensor(array: np.ndarray[Any, np.dtype[Any]]) -> torch.Tensor | None:
    if array.dtype.str == "|V2":
        # NumPy has no bfloat16: JAX's arrays arrive as two opaque bytes.
        return torch.from_numpy(np.ascontiguousarray(array).view(np.int16)).view(torch.bfloat16)
    if array.dtype.kind not in "fiub":
        return None
    return torch.from_numpy(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("=")).reshape(array.shape))
