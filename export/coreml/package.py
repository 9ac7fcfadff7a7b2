# SPDX-License-Identifier: Apache-2.0
"""Writing a ``.mlpackage`` folder: the same bytes for the same content."""

from __future__ import annotations

import json
import shutil
import uuid
from pathlib import Path
from typing import Any

from vitedge.mlprogram.package import MANIFEST, MODEL, WEIGHTS

_AUTHOR = "com.apple.CoreML"
_ITEMS = {
    f"{_AUTHOR}/model.mlmodel": ("model.mlmodel", "CoreML Model Specification"),
    f"{_AUTHOR}/weights": ("weights", "CoreML Model Weights"),
}
_ROOT = f"{_AUTHOR}/model.mlmodel"


def write_package(path: Path, model: Any, weights: Path) -> None:
    """Writes a package.

    Args:
        path: folder to make; its name does not enter the content.
        model: ``CoreML.Specification.Model``.
        weights: the ``weight.bin`` that the model refers to; it is moved.
    """
    (path / WEIGHTS).parent.mkdir(parents=True)
    (path / MODEL).write_bytes(model.SerializeToString(deterministic=True))
    shutil.move(weights, path / WEIGHTS)
    identifiers = {item: str(uuid.uuid5(uuid.NAMESPACE_URL, item)) for item in _ITEMS}
    manifest = {
        "fileFormatVersion": "1.0.0",
        "itemInfoEntries": {
            identifiers[item]: {"author": _AUTHOR, "description": description, "name": name, "path": item}
            for item, (name, description) in _ITEMS.items()
        },
        "rootModelIdentifier": identifiers[_ROOT],
    }
    (path / MANIFEST).write_text(json.dumps(manifest, indent=4, sort_keys=True) + "\n", encoding="utf-8")
