# SPDX-License-Identifier: Apache-2.0
"""Recognizes files that vitedge wrote, to name them where something else was expected."""

from __future__ import annotations

import shlex
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitedge.files.json_file import read_json

MANIFEST = "manifest.json"
"""Name of the file that makes a folder a bundle."""
PROGRAM_ENTRY = "vitedge.json"
"""Name of the archive entry that holds the header of a quantized program."""
_LARGEST = 64 * 2**20
_ARTIFACTS = (".onnx", ".mlpackage", ".engine", ".npz")


def instead_of_checkpoint(path: Path) -> str:
    """Returns what vitedge wrote at a path and what to pass instead, where a checkpoint was expected.

    Returns:
        A phrase that follows the path, such as ``is a bundle that vitedge export wrote; pass …``; empty where vitedge
        wrote nothing there that could be mistaken for a checkpoint.
    """
    if (content := _manifest(path / MANIFEST)) is not None:
        return f"is a bundle that vitedge export wrote; {_source(content)}"
    if path.name == MANIFEST and (content := _manifest(path)) is not None:
        return f"is the manifest of a bundle; {_source(content)}"
    if path.suffix in _ARTIFACTS and (content := _manifest(path.parent / MANIFEST)) is not None:
        return f"lies in a bundle that vitedge export wrote; {_source(content)}"
    if is_saved_run(path):
        return f"is a run that vitedge bench --save wrote; {_typed('bench', path)} shows it"
    if path.suffix == ".pt2" and _is_program(path):
        return f"is quantized already; {_typed('export', path)} -o BUNDLE writes artifacts of it"
    return ""


def instead_of_artifact(path: Path) -> str:
    """Returns what a file is and what to pass instead, where a bundle or an artifact was expected.

    Returns:
        A phrase that follows the path; empty where it is neither a file of vitedge's nor one of weights.
    """
    if path.name == MANIFEST and _manifest(path) is not None:
        return f"is the manifest of a bundle; pass its folder, {shlex.quote(str(path.parent))}"
    if is_saved_run(path):
        return f"is a run that vitedge bench --save wrote; {_typed('bench', path)} shows it"
    if said := inside_bundle(path):
        return said
    if path.suffix in (".pt2", ".safetensors", ".bin", ".pth", ".pt", ".ckpt", ".npz"):
        return f"is no artifact; {_typed('export', path)} -o BUNDLE writes a bundle of it, which can be passed"
    return ""


def inside_bundle(path: Path) -> str:
    """Returns that a path lies in a bundle, which is to be passed in its place, as a phrase; empty of anything else."""
    if _manifest(path.parent / MANIFEST) is None:
        return ""
    return f"lies in a bundle; pass its folder, {shlex.quote(str(path.parent))}"


def is_saved_run(path: Path) -> bool:
    """Returns whether a file is a run that ``vitedge bench --save`` wrote, of this version or an earlier one."""
    return path.suffix == ".json" and {"reports", "ratios"} <= set(_read(path))


def _typed(command: str, path: Path) -> str:
    return f"vitedge {command} {shlex.quote(str(path))}"


def _source(manifest: Mapping[str, Any]) -> str:
    """Returns the advice to pass the checkpoint of a bundle, by its path where it still lies there."""
    source = str(manifest["checkpoint"].get("source", ""))
    if Path(source).exists() or source.startswith(("timm:", "hf:")):
        return f"pass the checkpoint that it was made from, {shlex.quote(source)}"
    return f"pass the checkpoint that it was made from ({source})"


def _manifest(path: Path) -> Mapping[str, Any] | None:
    """Returns the content of a manifest of any version; None of anything else."""
    content = _read(path)
    return content if "artifacts" in content and isinstance(content.get("checkpoint"), dict) else None


def _read(path: Path) -> Mapping[str, Any]:
    """Returns the object in a JSON file; empty where there is none."""
    try:
        content = read_json(path, _LARGEST)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _is_program(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(f"/extra/{PROGRAM_ENTRY}") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError, EOFError):
        return False
