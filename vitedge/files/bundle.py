# SPDX-License-Identifier: Apache-2.0
"""A bundle: a folder of artifacts with the manifest that says what they are and the reference that proves it.

``manifest.json`` carries the SHA-256 of every other file and, as ``seal``, of its own content. ``reference.npz``
carries the images and the reference's outputs, so that parity can be shown again without PyTorch or the checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import platform
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vitedge import registry
from vitedge.errors import BadRecipe, BundleDamaged, UnreadableArtifact
from vitedge.files.digest import hash_file
from vitedge.files.plain import from_dict, to_dict
from vitedge.files.replacing import write_file
from vitedge.records import BenchReport, Manifest

FORMAT_VERSION = 2
"""What is written; older ones are read."""
MANIFEST = "manifest.json"
REFERENCE = "reference.npz"
_PACKAGES = ("vitedge", "torch", "timm", "onnx", "onnxscript", "onnxruntime", "coremltools", "numpy", "pillow")


@dataclass(frozen=True)
class ReferenceData:
    """What the reference computed, and from what."""

    images: npt.NDArray[np.uint8]
    """``(images, channels, height, width)``, RGB, 0 to 255."""
    outputs: Mapping[str, npt.NDArray[np.float32]]


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
        return from_dict(Manifest, content if version == FORMAT_VERSION else _from_first_format(content))
    except (BadRecipe, ValueError) as error:
        raise UnreadableArtifact(f"{path} cannot be read: {error}") from error


def _from_first_format(content: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the content of a manifest of format 1 as format 2 has it.

    Format 1 kept among the settings of quantization whether an export times its file, and what that found among what
    quantization did. Neither is part of quantization: timing is asked for by itself, and its result is ``speed``.
    """
    current = {**_with_tolerances(content), "format_version": FORMAT_VERSION}
    recipe, record = current.get("recipe"), current.get("quantization")
    if isinstance(recipe, dict) and isinstance(recipe.get("quantization"), dict):
        settings = {name: _switched(value) for name, value in _without_verdict(recipe["quantization"]).items()}
        current["recipe"] = {**recipe, "quantization": settings}
    if isinstance(record, dict):
        current["quantization"], current["speed"] = _without_verdict(record), record.get("verdict")
    return current


def _with_tolerances(value: Any) -> Any:
    """Returns plain values with the key ``bar`` under its new name, at every depth."""
    if isinstance(value, Mapping):
        return {"tolerance" if key == "bar" else key: _with_tolerances(entry) for key, entry in value.items()}
    return [_with_tolerances(entry) for entry in value] if isinstance(value, list) else value


def _switched(value: Any) -> Any:
    """Returns a setting as a bool where it was a word for one."""
    return {"on": True, "search": True, "off": False}.get(value, value) if isinstance(value, str) else value


def _without_verdict(entries: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entries.items() if name != "verdict"}


def add_latency(folder: Path, report: BenchReport) -> None:
    """Puts a measurement into the manifest, in one step."""
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


def versions() -> dict[str, str]:
    """Packages and the platform, for the manifest."""
    return {
        **registry.versions(_PACKAGES),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
    }


def _is_inside(folder: Path, path: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _seal(content: Mapping[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
