# SPDX-License-Identifier: Apache-2.0
"""Writes the files by which a bundle explains itself, and keeps its page up to date with what was measured since."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from vitedge.files.bundle import write_manifest
from vitedge.files.digest import hash_file
from vitedge.files.replacing import write_file
from vitedge.guide.programs import PYTHON, SWIFT, python_program, swift_program
from vitedge.guide.readme import LABELS, README, readme
from vitedge.images.preprocess import takes_pictures
from vitedge.records import Manifest

_SCORES = "logits"
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


def write_pages(folder: Path, manifest: Manifest) -> Manifest:
    """Writes the pages, programs and names of classes of a bundle that is being made.

    Args:
        folder: of the bundle; its other files are there.
        manifest: what they are written from, with every other file in it.

    Returns:
        The manifest with these files; it is not written.
    """
    for name, text in _texts(manifest):
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
        manifest = replace(manifest, files={**manifest.files, name: hash_file(folder / name)})
    return _with_readme(folder, manifest)


def reseal(folder: Path, manifest: Manifest) -> None:
    """Writes the manifest of a bundle anew, and before it the page that says what was measured since.

    A bundle that has no page, as those of earlier versions, gets none.

    Args:
        folder: of the bundle.
        manifest: with new results in it.
    """
    write_manifest(folder, _with_readme(folder, manifest) if README in manifest.files else manifest)


def _with_readme(folder: Path, manifest: Manifest) -> Manifest:
    sizes = {name: (folder / name).stat().st_size for name in manifest.files if name != README}
    write_file(folder / README, readme(manifest, sizes).encode())
    return replace(manifest, files={**manifest.files, README: hash_file(folder / README)})


def _texts(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Yields the names of the files beside the page, and their texts."""
    onnx = [artifact for artifact in manifest.artifacts if artifact.format == "onnx"]
    if onnx:
        yield PYTHON, python_program(onnx, manifest.preprocessing)
    package = next((artifact for artifact in manifest.artifacts if artifact.format == "coreml"), None)
    if package is not None and takes_pictures(manifest.spec.in_channels):
        yield SWIFT, swift_program(package, manifest.preprocessing)
    if manifest.spec.labels and any(output.name == _SCORES for one in manifest.artifacts for output in one.outputs):
        yield LABELS, "".join(f"{_line(label)}\n" for label in manifest.spec.labels)


def _line(label: str) -> str:
    """Returns a name on one line, without what would act on a terminal; it may come from anybody's file."""
    return " ".join(_CONTROLS.sub(" ", label).split())
