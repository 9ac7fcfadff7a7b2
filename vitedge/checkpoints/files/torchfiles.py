# SPDX-License-Identifier: Apache-2.0
"""Reads files of ``torch.save``: the zip format, memory-mapped, and the legacy format from before PyTorch 1.6."""

from __future__ import annotations

import io
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from vitedge.checkpoints.files import pickles
from vitedge.errors import RefusedPickle, UnreadableCheckpoint
from vitedge.sentences import short, some

LEGACY_MAGIC = bytes.fromhex("8a0a6cfc9c46f9206aa85019")
"""First bytes of the legacy format after two of the pickle protocol: the number 0x1950a86a20f9469cfc6c, pickled."""

_RUNNERS = ("builtins", "os", "posix", "nt", "sys", "subprocess", "shutil", "importlib", "runpy", "socket", "ctypes")


_RUNS = "nothing was run; take the weights from a source you trust, best as .safetensors."
_WAYS_OUT = (
    (
        r"torchao\.",
        "its weights are quantized by torchao; save the dense state_dict, from before quantize_ or with each such "
        "weight's dequantize(), pass that, and quantize with vitedge quantize.",
    ),
    (
        r"quanti|QInt|QUInt|torch\.q|rebuild_qtensor|bitsandbytes|per_channel_affine|per_tensor_affine",
        "its weights are quantized; pass those in float that it was made from, and quantize with vitedge quantize.",
    ),
    (
        r"torch\.distributed|DTensor|ShardedTensor",
        "its weights are shards of several processes; gather them with "
        "torch.distributed.checkpoint.state_dict.get_model_state_dict and full_state_dict=True, and save that.",
    ),
    (
        r"",
        "a checkpoint holds weights only: save model.state_dict() instead of the whole model or trainer; of a file "
        "that you trust, torch.save(torch.load(FILE, weights_only=False).state_dict(), 'weights.pth') does it.",
    ),
)
"""Regular expressions of refused names to the way out; the first that fits one of the names counts."""


def read_zip(path: Path, archive: zipfile.ZipFile) -> Any:
    """Returns the content of a zip checkpoint; its tensors are views of the file.

    Raises:
        RefusedPickle: the pickle asks for something that a checkpoint does not need.
        UnreadableCheckpoint: records are missing, compressed or too short.
    """
    names = archive.namelist()
    roots = [name[: -len("data.pkl")] for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise UnreadableCheckpoint(
            f"{path} is a zip archive but not a PyTorch checkpoint: it holds {some(names)}; "
            "pass the file that torch.save wrote."
        )
    root = roots[0]
    if f"{root}constants.pkl" in names:
        raise UnreadableCheckpoint(
            f"{path} is a TorchScript program, not a checkpoint; "
            "write its weights with torch.save(torch.jit.load(FILE).state_dict(), 'weights.pth') and pass that."
        )
    records = _records(path, archive)
    pickled = records[f"{root}data.pkl"].file_size
    if pickled > pickles.MOST_BYTES:
        raise UnreadableCheckpoint(
            f"{path} is refused: its pickle has {pickled} bytes, and the tensors of a checkpoint lie outside of it; "
            "save model.state_dict() alone."
        )
    found = pickles.scan(io.BytesIO(archive.read(f"{root}data.pkl")), str(path))
    _refuse(path, found)
    for key, size in found.storages.items():
        record = records.get(f"{root}data/{key}")
        if size and (record is None or record.file_size < size):
            raise _cut_short(path, f"storage {key} should have {size} bytes")
    return _load(path, mmap=True)


def read_legacy(path: Path) -> Any:
    """Returns the content of a legacy checkpoint, read into memory: its tensors cannot be mapped.

    Raises:
        RefusedPickle: as `read_zip`.
        UnreadableCheckpoint: as `read_zip`.
    """
    with path.open("rb") as stream:
        storages: dict[str, int] = {}
        for _ in ("magic number", "protocol", "system", "content", "keys"):
            found = pickles.scan(stream, str(path))
            _refuse(path, found)
            storages |= found.storages
        left = path.stat().st_size - stream.tell()
    if left < sum(8 + size for size in storages.values()):
        raise _cut_short(path, f"its tensors should have {sum(storages.values())} bytes")
    return _load(path, mmap=False)


def refuse_plain_pickle(path: Path) -> UnreadableCheckpoint:
    """Returns the error for a pickle that ``torch.save`` did not write.

    Raises:
        RefusedPickle: the pickle asks for something that could run code.
    """
    with path.open("rb") as stream:
        found = pickles.scan(stream, str(path))
    _refuse(path, found)
    return UnreadableCheckpoint(
        f"{path} is a plain pickle, not a PyTorch checkpoint; "
        "load it where it was made and write torch.save(state_dict, FILE)."
    )


def _records(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    records: dict[str, zipfile.ZipInfo] = {}
    for record in archive.infolist():
        if record.filename in records:
            raise UnreadableCheckpoint(f"{path} is damaged: it holds {record.filename} twice; save it again.")
        if record.compress_type != zipfile.ZIP_STORED or record.flag_bits & 1:
            raise UnreadableCheckpoint(
                f"{path} holds {record.filename} compressed or encrypted, which torch.save never does; "
                "unpack it if a checkpoint lies inside, or write it again with torch.save."
            )
        records[record.filename] = record
    return records


def _refuse(path: Path, found: pickles.Scan) -> None:
    if found.refused:
        names = some(found.refused)
        runs = any(name.split(".")[0] in _RUNNERS for name in found.refused)
        advice = _RUNS if runs else _way_out(found.refused)
        raise RefusedPickle(f"{path} is refused because its pickle asks for {names}: {advice}")
    if found.foreign:
        raise UnreadableCheckpoint(
            f"{path} uses {found.foreign}, which weights-only reading does not know; "
            "write it again with torch.save and its default pickle protocol, 2."
        )


def _way_out(refused: tuple[str, ...]) -> str:
    return next(advice for pattern, advice in _WAYS_OUT if any(re.search(pattern, name) for name in refused))


def _load(path: Path, *, mmap: bool) -> Any:
    plain: list[Any] = [(stand_in, name) for name, stand_in in pickles.PLAIN.items()]
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(plain):
            # Notices about storage classes and the age of the file, which the user cannot act on.
            warnings.simplefilter("ignore")
            if mmap and path.suffix != ".safetensors":
                return torch.load(path, map_location="cpu", mmap=True, weights_only=True)
            with path.open("rb") as stream:  # without a name, by whose suffix PyTorch would choose another reader
                return torch.load(stream, map_location="cpu", weights_only=True)
    except Exception as error:
        # PyTorch raises whatever the damaged place leads to; the scan has already told the malicious cases apart.
        raise UnreadableCheckpoint(
            f"{path} is damaged: PyTorch cannot read it ({short(error)}); fetch or save the file again."
        ) from error


def _cut_short(path: Path, what: str) -> UnreadableCheckpoint:
    return UnreadableCheckpoint(
        f"{path} is cut short or damaged: {what} and the file does not hold them; fetch it again."
    )
