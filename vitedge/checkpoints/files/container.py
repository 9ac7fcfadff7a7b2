# SPDX-License-Identifier: Apache-2.0
"""Opens checkpoints: finds the format from the first bytes, and reads the content.

Nothing of the file is run, and nothing is copied where the format allows a view of the file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import struct
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import safe_open

from vitedge.checkpoints.families.family import State
from vitedge.checkpoints.files import arrays, folders, torchfiles
from vitedge.errors import UnreadableCheckpoint
from vitedge.files.digest import hash_file, hash_listing
from vitedge.files.own_files import instead_of_checkpoint
from vitedge.files.zip_directory import LARGEST_DIRECTORY, directory_size
from vitedge.sentences import nearest, short

LARGEST_HEADER = 32 * 2**20
"""Bytes of a safetensors header; the format itself allows 100 MB, weights of a vision transformer need 100 kB."""
MOST_TENSORS = 20_000
"""Tensors of a safetensors file; a ViT-g has 600, with averages and the state of an optimizer 3000."""

_FOREIGN = (
    (b"version https://git-lfs", "is a Git LFS pointer, not the weights; run git lfs pull where it came from"),
    (b"\x1f\x8b", "is compressed with gzip; unpack it first"),
    (b"BZh", "is compressed with bzip2; unpack it first"),
    (b"\xfd7zXZ", "is compressed with xz; unpack it first"),
    (b"\x89HDF", "is an HDF5 file (Keras); pass the PyTorch, safetensors or npz weights of the model"),
    (b"GGUF", "is a GGUF file; pass the original checkpoint"),
    (b"\x93NUMPY", "is a single NumPy array; pass an .npz with all weights"),
)
_HUGGING_FACE = "huggingface folder"


@dataclass(frozen=True)
class Container:
    """An opened checkpoint."""

    kind: str
    """``pytorch zip``, ``pytorch legacy``, ``safetensors``, ``huggingface folder`` or ``npz``."""
    path: Path
    size: int
    """Bytes; for a folder, of the files that hold its weights and configuration."""
    content: Any
    """The saved object: weights, or a nested mapping with weights somewhere in it."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """``config.json`` or ``open_clip_config.json`` of a folder, or empty."""
    preprocessor: Mapping[str, Any] = field(default_factory=dict)
    """``preprocessor_config.json`` of a folder, or empty."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Metadata of a safetensors header, or empty."""
    files: tuple[Path, ...] = ()
    """Every file that was read."""
    notes: tuple[str, ...] = ()
    """Remarks for the user: which configuration beside a file was read, or was not."""

    @property
    def configured_by(self) -> str:
        """The path of the configuration, for messages."""
        found = [file for file in self.files if file.name in folders.CONFIGS]
        return str(
            found[0] if found else (self.path if self.kind == _HUGGING_FACE else self.path.parent) / folders.CONFIG
        )

    def sha256(self) -> str:
        """Returns the SHA-256 of the file; for a folder, of the sorted list of its files' names and hashes."""
        if self.kind != _HUGGING_FACE:
            return hash_file(self.path)
        return hash_listing({file.name: hash_file(file) for file in self.files})


def open_container(source: str | Path) -> Container:
    """Opens a file or a folder of weights.

    Raises:
        UnreadableCheckpoint: there is nothing at that place, or nothing that can be read as a checkpoint.
        RefusedPickle: a pickle in it asks for something that could run code.
    """
    path = Path(source)
    if said := instead_of_checkpoint(path):
        raise UnreadableCheckpoint(f"{path} {said}.")
    try:
        return _open_folder(path) if path.is_dir() else _configured(_open_file(path))
    except FileNotFoundError as error:
        near = nearest(path.name, _beside(path))
        raise UnreadableCheckpoint(
            f"There is no {path}; give the path of a checkpoint, or timm:NAME or hf:NAME for the hub{near}"
        ) from error
    except OSError as error:
        raise UnreadableCheckpoint(f"{path} cannot be read: {error.strerror or short(error)}.") from error


def _beside(path: Path) -> Mapping[str, None]:
    """Returns the names of the files in a path's folder."""
    try:
        return {entry.name: None for entry in path.parent.iterdir()}
    except OSError:
        return {}


def _open_file(path: Path) -> Container:
    if not path.is_file() and path.exists():
        raise UnreadableCheckpoint(f"{path} is neither a file nor a folder; give the path of a checkpoint.")
    if path.suffix == ".distcp":
        raise UnreadableCheckpoint(folders.no_weights(path.parent))
    size = path.stat().st_size
    kind = _kind(path)
    metadata: Mapping[str, str] = {}
    if kind == "safetensors":
        content, metadata = read_safetensors(path)
    elif kind == "pytorch legacy":
        content = torchfiles.read_legacy(path)
    else:
        with _zip(path) as archive:
            names = archive.namelist()
            kind = "npz" if names and all(name.endswith((".npy", "/")) for name in names) else kind
            content = arrays.read_npz(path, archive) if kind == "npz" else torchfiles.read_zip(path, archive)
    return Container(kind, path, size, content, metadata=metadata, files=(path,))


def _configured(opened: Container) -> Container:
    """Adds the configuration beside a file, where it is this file's."""
    beside = folders.beside(opened.path)
    return dataclasses.replace(
        opened,
        config=beside.config,
        preprocessor=beside.preprocessor,
        files=(*opened.files, *beside.extras),
        notes=beside.notes,
    )


def _open_folder(path: Path) -> Container:
    found = folders.find(path)
    content: dict[str, Any] = {}
    metadata: Mapping[str, str] = {}
    for shard, names in found.shards.items():
        part = _open_file(shard)
        metadata = part.metadata
        if names is None:
            content = part.content
            break
        content |= folders.pick(shard, part.content, names)
    files = (*found.shards, *found.extras)
    size = sum(file.stat().st_size for file in files)
    return Container(_HUGGING_FACE, path, size, content, found.config, found.preprocessor, metadata, files)


def read_safetensors(path: Path) -> tuple[State, Mapping[str, str]]:
    """Returns the tensors of a safetensors file as views of it, and the metadata of its header.

    Raises:
        UnreadableCheckpoint: the header is too large, damaged, or contradicts the size of the file.
    """
    with path.open("rb") as stream:
        (header,) = struct.unpack("<Q", stream.read(8))
    if header > min(LARGEST_HEADER, path.stat().st_size - 8):
        raise UnreadableCheckpoint(
            f"{path} is cut short or damaged: its safetensors header should have {header} bytes; fetch it again."
        )
    try:
        with safe_open(path, framework="pt") as opened:
            _check_count(path, len(opened.keys()))
            return {name: opened.get_tensor(name) for name in opened.keys()}, dict(opened.metadata() or {})  # noqa: SIM118
    except UnreadableCheckpoint:
        raise
    except Exception as error:
        # SafetensorError for the header; PyTorch's own kinds for element types it does not have.
        raise UnreadableCheckpoint(
            f"{path} is damaged: it cannot be read as safetensors ({short(error)}); fetch it again."
        ) from error


def _check_count(path: Path, tensors: int) -> None:
    if tensors > MOST_TENSORS:
        raise UnreadableCheckpoint(
            f"{path} is refused: it holds {tensors} tensors, and no vision transformer has more than {MOST_TENSORS}; "
            "pass the weights of one model."
        )


@contextlib.contextmanager
def _zip(path: Path) -> Iterator[zipfile.ZipFile]:
    if (directory := directory_size(path)) > LARGEST_DIRECTORY:
        raise UnreadableCheckpoint(
            f"{path} is refused: the directory of its zip archive has {directory} bytes, as no checkpoint's has."
        )
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError) as error:
        raise UnreadableCheckpoint(
            f"{path} is cut short or damaged: its zip directory cannot be read ({short(error)}); fetch it again."
        ) from error


def _kind(path: Path) -> str:
    with path.open("rb") as stream:
        head = stream.read(512)
    if not head:
        raise UnreadableCheckpoint(f"{path} is empty; fetch or save it again.")
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "pytorch zip"
    if head[:1] == b"\x80" and head[2:14] == torchfiles.LEGACY_MAGIC:
        return "pytorch legacy"
    if head[8:9] == b"{" and not head[:8].decode("latin-1").isprintable():
        return "safetensors"
    _refuse_foreign(path, head)
    if head[:1] == b"\x80" and head[1:2] <= b"\x05":
        raise torchfiles.refuse_plain_pickle(path)
    raise UnreadableCheckpoint(
        f"{path} is not a checkpoint: its first bytes are not those of PyTorch, safetensors or npz; check the download."
    )


def _refuse_foreign(path: Path, head: bytes) -> None:
    for magic, what in _FOREIGN:
        if head.startswith(magic):
            raise UnreadableCheckpoint(f"{path} {what}.")
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise UnreadableCheckpoint(f"{path} is a web page saved under that name; download the file itself.")
    if text.startswith((b"{", b"[")):
        raise UnreadableCheckpoint(f"{path} is a JSON file; pass the weights, or the folder that holds both.")
    if head[257:262] == b"ustar":
        raise UnreadableCheckpoint(
            f"{path} is a tar archive; unpack it, or if PyTorch before 0.4 wrote it, load and torch.save it again."
        )
    if head[:1] == b"\x08" and head[2:3] in (b"\x12", b"\x3a"):
        raise UnreadableCheckpoint(f"{path} is an ONNX model; pass the PyTorch checkpoint that it was exported from.")
