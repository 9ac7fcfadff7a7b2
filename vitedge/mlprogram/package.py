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
from vitedge.mlprogram.limits import LARGEST_MANIFEST, LARGEST_SPECIFICATION, LONGEST_NAME

MODEL = "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"
MANIFEST = "Manifest.json"
MAIN = "main"
"""The function that runs where a package declares no other."""
_MOST_ITEMS = _MOST_FILES = 100
_MODEL_PATH = "@model_path/"
"""Prefix of the name of a blob file in a program: the folder of its specification."""


@dataclass(frozen=True)
class Package:
    """The content of a package."""

    path: Path
    model: Any
    """``CoreML.Specification.Model``."""
    _blobs: dict[str, Blobs] = field(default_factory=dict, repr=False, compare=False)

    @property
    def functions(self) -> tuple[str, ...]:
        """Names of the functions of its program."""
        return tuple(sorted(self.model.mlProgram.functions))

    @property
    def default_function(self) -> str:
        """Name of the function that runs where none is asked for."""
        return str(self.model.description.defaultFunctionName or MAIN)

    @property
    def interface(self) -> Any:
        """The description of inputs and outputs; in a package of several functions, of the one that runs."""
        for function in self.model.description.functions:
            if function.name == self.default_function:
                return function
        return self.model.description

    def blobs(self, name: str) -> Blobs:
        """Returns the blob file that a program calls ``name``.

        Raises:
            UnreadableArtifact: it is not inside the package.
        """
        if name not in self._blobs:
            folder = (self.path / MODEL).parent
            file = _inside(folder, name.removeprefix(_MODEL_PATH)) if name.startswith(_MODEL_PATH) else None
            if file is None or not file.is_file() or len(self._blobs) == _MOST_FILES:
                raise UnreadableArtifact(f"{self.path} is damaged: its weights are said to be in {quoted(name)}.")
            self._blobs[name] = Blobs(file)
        return self._blobs[name]


def read_package(path: Path) -> Package:
    """Reads a package; the weights stay on disk.

    Raises:
        UnreadableArtifact: it is not a package of one ML Program.
        MissingBackend: coremltools, whose generated classes read the specification, is not installed.
    """
    if not path.is_dir():
        raise UnreadableArtifact(f"{path} is not an .mlpackage: that is a folder.")
    _check_manifest(path)
    model = registry.generated("coremltools", "proto", "Model_pb2").Model()
    content = _content(path, MODEL, LARGEST_SPECIFICATION)
    try:
        model.ParseFromString(content)
    except Exception as error:  # protobuf's error class depends on its implementation
        raise UnreadableArtifact(
            f"{path / MODEL} is damaged: it cannot be read as a Core ML model of {len(content)} bytes."
        ) from error
    package = Package(path, model)
    _check_kind(package)
    return package


def quoted(text: str) -> str:
    """Returns a text of a file in a form that can be shown: in quotes, on one line, cut if it is long."""
    shown = ascii(text[: LONGEST_NAME // 8])
    return shown if len(text) <= LONGEST_NAME // 8 else f"{shown}..."


def _check_kind(package: Package) -> None:
    kind = package.model.WhichOneof("Type")
    if kind != "mlProgram":
        holds = f"a model of the kind {kind}" if kind else "no model"
        raise UnreadableArtifact(f"{package.path} holds {holds} where vitedge reads ML Programs: convert to mlprogram.")
    if package.default_function not in package.functions:
        raise UnreadableArtifact(
            f"{package.path} holds no ML Program with a function {quoted(package.default_function)}."
        )


def _check_manifest(path: Path) -> None:
    try:
        manifest = json.loads(_content(path, MANIFEST, LARGEST_MANIFEST).decode("utf-8"))
        items = {key: entry["path"] for key, entry in manifest["itemInfoEntries"].items()}
        root = items[manifest["rootModelIdentifier"]]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UnreadableArtifact(
            f"{path} is not an .mlpackage: its {MANIFEST} is not JSON that lists its items and its root model."
        ) from error
    if len(items) > _MOST_ITEMS:
        raise UnreadableArtifact(f"{path} is damaged: its {MANIFEST} lists {len(items)} items.")
    for item in items.values():
        if not isinstance(item, str) or _inside(path / "Data", item) is None:
            raise UnreadableArtifact(f"{path} is damaged: it lacks {quoted(str(item))}, which its {MANIFEST} lists.")
    if f"Data/{root}" != MODEL:
        raise UnreadableArtifact(f"{path} is damaged: its model is {quoted(root)} and not {MODEL}.")


def _content(path: Path, name: str, largest: int) -> bytes:
    """Returns the bytes of a file of a package."""
    file = _inside(path, name)
    if file is None or not file.is_file():
        raise UnreadableArtifact(f"{path} is not an .mlpackage: it has no file {name}.")
    try:
        size = file.stat().st_size
        if size > largest:
            raise UnreadableArtifact(f"{file} has {size} bytes, and no ML Program needs more than {largest}.")
        return file.read_bytes()
    except OSError as error:
        raise UnreadableArtifact(f"{file} cannot be read: {error.strerror}.") from error


def _inside(folder: Path, name: str) -> Path | None:
    """Returns the file of that name; None where it is outside of the folder, or does not exist."""
    try:
        file = (folder / name).resolve()
        return file if file.is_relative_to(folder.resolve()) and file.exists() else None
    except (OSError, ValueError, RuntimeError):  # too long, a NUL in it, links in a circle
        return None
