# SPDX-License-Identifier: Apache-2.0
"""A bundle: a folder of artifacts, the manifest that describes them, and the reference outputs to check them with.

``manifest.json`` carries the SHA-256 of every other file and, as ``seal``, of its own content. ``reference.npz``
carries the images and the reference's outputs, so that parity can be shown again without PyTorch or the checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
import numpy.typing as npt

from vitedge.errors import BadRecipe, BundleDamaged, UnreadableArtifact
from vitedge.files import own_files
from vitedge.files.digest import hash_file
from vitedge.files.earlier import from_first_format
from vitedge.files.json_file import read_json
from vitedge.files.npy import read_header, write_npz
from vitedge.files.plain import from_dict, to_dict
from vitedge.files.replacing import write_file
from vitedge.files.stray import is_stray
from vitedge.files.zip_directory import LARGEST_DIRECTORY, directory_size
from vitedge.records import Manifest
from vitedge.sentences import short, some

FORMAT_VERSION = 2
"""The format of manifests that are written; older ones are read."""
MANIFEST = own_files.MANIFEST
LARGEST_MANIFEST = 64 * 2**20
"""Bytes of a manifest that are read; samples of a measurement are most of one, some megabytes."""
REFERENCE = "reference.npz"


@dataclass(frozen=True)
class ReferenceData:
    """Images, and the outputs that the reference computed for them."""

    images: npt.NDArray[np.uint8]
    """``(images, channels, height, width)``, RGB, 0 to 255."""
    outputs: Mapping[str, npt.NDArray[np.float32]]
    """Output name to values, ``(images, …)``."""


def write_reference(folder: Path, data: ReferenceData) -> None:
    """Writes ``reference.npz``; the same content gives the same bytes."""
    outputs = {f"output.{name}": values for name, values in data.outputs.items()}
    write_npz(folder / REFERENCE, {"images": data.images, **outputs})


def read_reference(folder: Path) -> ReferenceData:
    """Reads ``reference.npz``.

    Raises:
        BundleDamaged: the file is not what `write_reference` writes.
    """
    try:
        _check_sizes(folder / REFERENCE)
        with (folder / REFERENCE).open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            outputs = {name[len("output.") :]: file[name] for name in file.files if name.startswith("output.")}
            return ReferenceData(file["images"], outputs)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise BundleDamaged(f"{folder / REFERENCE} is damaged: {error}.") from error


def _check_sizes(path: Path) -> None:
    """Raises ValueError where an archive would take more memory than it has bytes: `numpy.savez` packs nothing."""
    if directory_size(path) > LARGEST_DIRECTORY:
        raise ValueError("its zip directory is too large")
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            with archive.open(member) as stream:
                declared = read_header(stream).file_size
            if member.compress_type != zipfile.ZIP_STORED or not declared == member.file_size <= path.stat().st_size:
                raise ValueError(f"{member.filename} does not have the bytes that its header declares")


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes and seals ``manifest.json``; the last file of a bundle to be written."""
    content = to_dict(manifest)
    content["seal"] = _seal(content)
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_file(folder / MANIFEST, text.encode())


def read_manifest(folder: Path) -> Manifest:
    """Reads ``manifest.json``, checks its seal, and that the files that it names lie in the bundle.

    Raises:
        UnreadableArtifact: the folder has none, or one of a newer format.
        BundleDamaged: it was cut short or changed, or names a path that leads out of the bundle.
    """
    path = folder / MANIFEST
    try:
        content = read_json(path, LARGEST_MANIFEST)
        version = content.get("format_version") if isinstance(content, dict) else None
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise UnreadableArtifact(
                f"{path} has format {version}; this vitedge reads {FORMAT_VERSION} and older: install a newer one."
            )
        sealed = isinstance(content, dict) and content.pop("seal", None) == _seal(content)
    except (FileNotFoundError, NotADirectoryError):
        if said := own_files.inside_bundle(folder):
            raise UnreadableArtifact(f"{folder} {said}.") from None
        missing = f"it has no {MANIFEST}" if folder.is_dir() else "it is no folder"
        raise UnreadableArtifact(
            f"{folder} is not a bundle: {missing}; vitedge export CHECKPOINT -o BUNDLE writes one."
        ) from None
    except (OSError, ValueError) as error:
        raise BundleDamaged(f"{path} is damaged: {short(error)}.") from error
    if not sealed:
        raise BundleDamaged(
            f"{path} was changed after it was written: its seal does not fit its content{_unlike(folder, content)}."
        )
    if version not in range(1, FORMAT_VERSION + 1):
        raise UnreadableArtifact(f"{path} has format {version}; this vitedge reads {FORMAT_VERSION} and older.")
    try:
        manifest = from_dict(Manifest, content if version == FORMAT_VERSION else from_first_format(content))
    except (BadRecipe, ValueError) as error:
        raise UnreadableArtifact(f"{path} cannot be read: {error}") from error
    for name in (*listed(manifest), *(artifact.path for artifact in manifest.artifacts)):
        if _leads_out(name):
            raise BundleDamaged(f"{path} is refused: it names {name}, which leads out of the bundle.")
    return manifest


def listed(manifest: Manifest) -> dict[str, str]:
    """Returns the path of every file that a manifest describes, relative to the bundle, to its SHA-256."""
    files = dict(manifest.files)
    for artifact in manifest.artifacts:
        files.update(artifact.files)
    return files


def check_files(folder: Path, manifest: Manifest) -> int:
    """Compares every file of the bundle with the hash that the manifest gives; returns how many there are.

    A file may be a link, as in the cache of a hub: what it leads to is hashed. What known systems leave in folders is
    no part of a bundle and does no harm to it. `remarks` tells of both.

    Raises:
        BundleDamaged: names the first file that is missing, changed, or not in the manifest, or that leads out of the
            bundle by its name.
    """
    expected = check_listed(folder, manifest)
    for name in sorted(_present(folder)):
        if name not in expected and name != MANIFEST and not is_stray(name):
            raise BundleDamaged(f"{folder / name} is in the bundle but not in its {MANIFEST}.")
    return len(expected)


def check_listed(folder: Path, manifest: Manifest) -> Mapping[str, str]:
    """Compares every file that the manifest lists with its hash there, whatever else lies in the bundle; returns these.

    Raises:
        BundleDamaged: names the first file that is missing or changed, or that leads out of the bundle by its name.
    """
    expected = listed(manifest)
    for name, digest in sorted(expected.items()):
        path = folder / name
        if _leads_out(name):
            raise BundleDamaged(f"{folder / MANIFEST} is refused: it names {name}, which leads out of the bundle.")
        if not path.is_file():
            aim = f": it is a link to {path.readlink()}, which is not there" if path.is_symlink() else ""
            raise BundleDamaged(f"{path} is missing from the bundle{aim}.")
        if hash_file(path) != digest:
            raise BundleDamaged(f"{path} is not the file that {MANIFEST} describes: its SHA-256 is another.")
    return expected


def remarks(folder: Path, manifest: Manifest) -> tuple[str, ...]:
    """Returns a phrase each about files of a bundle that are links to elsewhere, and about those that are ignored."""
    names = sorted(listed(manifest).keys() | {MANIFEST})
    links = [name for name in names if not (folder / name).resolve().is_relative_to(folder.resolve())]
    strays = sorted(name for name in _present(folder) if name not in names and is_stray(name))
    told = []
    if links:
        told.append(f"links to files outside the bundle, whose content was checked: {some(links)}")
    if strays:
        told.append(f"left by an operating system and ignored: {some(strays)}")
    return tuple(told)


def size_of(folder: Path) -> int:
    """Returns the bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _present(folder: Path) -> set[str]:
    """Returns the files in a folder, by their paths relative to it; folders that are links are entered once."""
    found: set[str] = set()
    entered: set[Path] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        here = Path(place)
        if here.resolve() in entered:
            folders.clear()
            continue
        entered.add(here.resolve())
        found.update((here / name).relative_to(folder).as_posix() for name in files)
    return found


def _leads_out(name: str) -> bool:
    """Returns whether a path of a manifest is none within the bundle, on this system or on Windows."""
    windows = PureWindowsPath(name)
    return not name or bool(windows.anchor) or ".." in windows.parts or "\0" in name


def _unlike(folder: Path, content: Any) -> str:
    """Returns a phrase about the first file that a changed manifest does not describe; empty where there is none."""
    artifacts = content.get("artifacts") if isinstance(content, dict) else None
    records = [content, *(artifacts if isinstance(artifacts, list) else [])]
    groups = [record.get("files") for record in records if isinstance(record, dict)]
    for name, digest in (entry for files in groups if isinstance(files, dict) for entry in files.items()):
        if _leads_out(name):
            return f", and it names {name}, which leads out of the bundle"
        if not (folder / name).is_file() or hash_file(folder / name) != digest:
            return f", and {name} is not the file that it describes"
    return ""


def _seal(content: Mapping[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
