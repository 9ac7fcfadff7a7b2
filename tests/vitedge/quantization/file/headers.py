# SPDX-License-Identifier: Apache-2.0
"""Quantized files that are nothing but their header."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

from vitedge.quantization.file.header import FORMAT_VERSION

CONTENT: dict[str, Any] = {
    "format_version": FORMAT_VERSION,
    "record": {"scheme": "int8", "layers": [{"activation": None}, {"activation": "uint8"}]},
    "spec": {"image_size": [32, 48]},
    "inputs": [{"shape": [1, 3, 32, 48], "dtype": "float32"}],
}


def written(path: Path, content: object = None) -> Path:
    """Writes a file of that content, or of `CONTENT`."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/extra/vitedge.json", json.dumps(CONTENT if content is None else content))
    return path


def with_activations(*kinds: str | None) -> dict[str, Any]:
    """`CONTENT` with layers of those kinds of activations."""
    return {**CONTENT, "record": {"scheme": "int8", "layers": [{"activation": kind} for kind in kinds]}}


def with_batch(batch: int | str) -> dict[str, Any]:
    """`CONTENT` with that batch."""
    return {**CONTENT, "inputs": [{"shape": [batch, 3, 32, 48], "dtype": "float32"}]}
