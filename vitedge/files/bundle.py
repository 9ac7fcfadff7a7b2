# SPDX-License-Identifier: Apache-2.0
"""A bundle: a folder of artifacts, the manifest that describes them, and the reference outputs to check them with.

``manifest.json`` carries the SHA-256 of every other file and, as ``seal``, of its own content. ``reference.npz``
carries the images and the reference's outputs, so that parity can be shown again without PyTorch or the checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vitedge.errors import BadRecipe, BundleDamaged, UnreadableArtifact
from vitedge.files.digest import hash_file
from vitedge.files.earlier import from_first_format
from vitedge.files.plain import from_dict, to_dict
from vitedge.files.replacing import write_file
from vitedge.records import BenchReport, Manifest

FORMAT_VERSION = 2
"""The format of manifests that are written; older ones are read."""
MANIFEST = "manifest.json"
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
    np.savez(folder / REFERENCE, allow_pickle=False, images=data.images, **outputs)


def read_reference(folder: Path) -> ReferenceData:
    """Reads ``reference.npz``.

    Raises:
        BundleDamaged: the file is not what `write_reference` writes.
    """
    try:
        with (folder / REFERENCE).open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            outputs = {name[len("output.") :]: file[name] for name in file.files if name.startswith("output.")}
            return ReferenceData(file["images"], outputs)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise BundleDamaged(f"{folder / REFERENCE} is damaged: {error}.") from error


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes and seals ``manifest.json``; the last file of a bundle to be written."""
    content = to_dict(manifest)
    content["seal"] = _seal(content)
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_file(folder / MANIFEST, text.encode())


def read_manifest(folder: Path) -> Manifest:
    """Reads ``manifest.json`` and checks its seal.

    Raises:
        UnreadableArtifact: the folder has none.
        BundleDamaged: it was cut short or changed.
    """
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UnreadableArtifact(f"{folder} is not a bundle: it has no {MANIFEST}.") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise BundleDamaged(f"{path} is damaged: {error}.") from error
    if not isinstance(content, dict) or content.pop("seal", None) != _seal(content):
        raise BundleDamaged(f"{path} was changed after it was written: its seal does not fit its content.")
    version = content.get("format_version")
    if version not in range(1, FORMAT_VERSION + 1):
        raise UnreadableArtifact(f"{path} has format {version}; this vitedge reads {FORMAT_VERSION} and older.")
    try:
        return from_dict(Manifest, content if version == FORMAT_VERSION else from_first_format(content))
    except (BadRecipe, ValueError) as error:
        raise UnreadableArtifact(f"{path} cannot be read: {error}") from error


def add_latency(folder: Path, report: BenchReport) -> None:
    """Replaces the measurement in the manifest, in one step."""
    write_manifest(folder, replace(read_manifest(folder), latency=report))


def check_files(folder: Path, manifest: Manifest) -> int:
    """Compares every file of the bundle with the hash that the manifest gives; returns how many there are.

    Raises:
        BundleDamaged: names the first file that is missing, changed, or not in the manifest.
    """
    expected = dict(manifest.files)
    for artifact in manifest.artifacts:
        expected.update(artifact.files)
    for name, digest in sorted(expected.items()):
        path = folder / name
        if not _is_inside(folder, path) or not path.is_file():
            raise BundleDamaged(f"{path} is missing from the bundle.")
        if hash_file(path) != digest:
            raise BundleDamaged(f"{path} is not the file that {MANIFEST} describes: its SHA-256 is another.")
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in expected and name != MANIFEST:
            raise BundleDamaged(f"{path} is in the bundle but not in its {MANIFEST}.")
    return len(expected)


def size_of(folder: Path) -> int:
    """Returns the bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _is_inside(folder: Path, path: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _seal(content: Mapping[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
