# SPDX-License-Identifier: Apache-2.0
"""A ``.mlpackage`` folder: its manifest, its specification, and where its weights lie.

Layout: ``mlmodel/format/*.proto`` and ``modelpackage/src`` of apple/coremltools.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vitedge import registry
from vitedge.errors import UnreadableArtifact
from vitedge.mlprogram.blobs import Blobs

MODEL = "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"
MANIFEST = "Manifest.json"
_MODEL_PATH = "@model_path/"
"""How a program writes the folder of its specification in front of the name of a blob file."""


@dataclass(frozen=True)
class Package:
    """What is in a package."""

    path: Path
    model: Any
    """``CoreML.Specification.Model``."""
    _blobs: dict[str, Blobs] = field(default_factory=dict, repr=False, compare=False)

    def blobs(self, name: str) -> Blobs:
        """The blob file that a program calls ``name``.

        Raises:
            UnreadableArtifact: it is not inside the package.
        """
        if name not in self._blobs:
            folder = (self.path / MODEL).parent
            file = folder / name.removeprefix(_MODEL_PATH)
            inside = name.startswith(_MODEL_PATH) and file.resolve().is_relative_to(folder.resolve())
            if not inside or not file.is_file():
                raise UnreadableArtifact(f"{self.path} is damaged: its weights are said to be in {name!r}.")
            self._blobs[name] = Blobs(file)
        return self._blobs[name]


def read_package(path: Path) -> Package:
    """Reads a package; the weights stay on disk.

    Raises:
        UnreadableArtifact: it is not a package of one ML Program.
        MissingBackend: coremltools, whose generated classes read the specification, is not installed.
    """
    _check_manifest(path)
    model = registry.generated("coremltools", "proto", "Model_pb2").Model()
    try:
        model.ParseFromString((path / MODEL).read_bytes())
    except Exception as error:  # protobuf's error class depends on its implementation
        raise UnreadableArtifact(f"{path / MODEL} cannot be read as a Core ML model: {error}.") from error
    if "main" not in model.mlProgram.functions:
        raise UnreadableArtifact(f"{path} holds no ML Program with a function main.")
    return Package(path, model)


def _check_manifest(path: Path) -> None:
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        items = {key: entry["path"] for key, entry in manifest["itemInfoEntries"].items()}
        root = items[manifest["rootModelIdentifier"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UnreadableArtifact(f"{path} is not an .mlpackage: its {MANIFEST} cannot be read ({error}).") from error
    missing = [item for item in items.values() if not (path / "Data" / item).exists()]
    if missing or f"Data/{root}" != MODEL:
        raise UnreadableArtifact(f"{path} is damaged: it lacks {', '.join(missing) or MODEL}.")
