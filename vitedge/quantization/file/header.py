# SPDX-License-Identifier: Apache-2.0
"""The header of a quantized file, read without PyTorch, so that a request that contradicts it is refused at once."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitedge.errors import BadRecipe, UnreadableArtifact
from vitedge.files.own_files import PROGRAM_ENTRY

SUFFIX = ".pt2"
FORMAT_VERSION = 2
"""Version of the format that is written; older ones are read."""
ENTRY = PROGRAM_ENTRY
"""Name of the archive's entry that holds the header."""
LARGEST_TEXT = 64 * 2**20
"""Bytes of an entry that is JSON; the program of a ViT-L with all its nodes has a few million."""
_UNSIGNED = ("uint8", "uint16")
_OPTIONS_OF_FIXED = {
    "images": "--images",
    "image_count": "--image-count",
    "seed": "--seed",
    "weights": "--weights",
    "overrides": "--set",
    "features": "--features",
    "quantization": "--quantization or --layer",
}
"""Entries of a recipe that are fixed at quantization, to the options that set them."""


@dataclass(frozen=True)
class ProgramHeader:
    """The properties of a program that were fixed at quantization."""

    scheme: str
    """The recipe's scheme."""
    batch: int | str
    """A number, or ``dynamic``."""
    input: str
    """Dtype of the image: ``float32`` or ``uint8``."""
    image_size: tuple[int, int]
    """Height and width in pixels."""
    zero_points: bool
    """Whether any activation is unsigned, with a zero point."""


def read_header(path: Path) -> ProgramHeader:
    """Reads the header of a ``.pt2`` file.

    Raises:
        UnreadableArtifact: the file has no header that vitedge wrote, or one of a newer version.
    """
    if not path.is_file():
        raise UnreadableArtifact(f"There is no {path}.")
    try:
        with zipfile.ZipFile(path) as archive:
            check_entries(archive)
            content = json.loads(archive.read(_place(archive)))
        if is_readable(content["format_version"]):
            return _header(content)
    except Exception as error:  # a damaged archive may say anything
        raise UnreadableArtifact(f"{path} is not a {SUFFIX} file that vitedge quantize wrote.") from error
    raise UnreadableArtifact(
        f"{path} has format {content['format_version']}; this vitedge reads {FORMAT_VERSION} and older."
    )


def check_entries(archive: zipfile.ZipFile) -> None:
    """Raises ValueError where an entry would take more memory than it has bytes, or a text more than a program has."""
    for entry in archive.infolist():
        if entry.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{entry.filename} is compressed, which PyTorch never does")
        if entry.filename.endswith(".json") and entry.file_size > LARGEST_TEXT:
            raise ValueError(f"{entry.filename} has {entry.file_size} bytes, and no program more than {LARGEST_TEXT}")


def is_readable(version: object) -> bool:
    """Returns whether this vitedge reads a version of the format."""
    return version in range(1, FORMAT_VERSION + 1)


def fixed_entries(source: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the entries of a recipe that a quantized file fixes, to their values.

    Args:
        source: the ``.pt2`` file.
        asked: entries of an `ExportRecipe` that the user set, to their values.

    Raises:
        BadRecipe: an entry contradicts the file, or was fixed at quantization.
        UnreadableArtifact: the source is no quantized file, whatever its name.
    """
    for name, option in _OPTIONS_OF_FIXED.items():
        if asked.get(name):
            raise BadRecipe(
                f"{option} was fixed when {source} was quantized: leave it out, or quantize the checkpoint anew."
            )
    header = read_header(Path(source))
    fixed = {"precision": header.scheme, "batch": header.batch, "input": header.input}
    for name, value in fixed.items():
        if asked.get(name, value) != value:
            raise BadRecipe(
                f"{source} was quantized with {name} {value}, not {asked[name]}: quantize the checkpoint anew."
            )
    height, width = header.image_size
    if tuple(asked.get("image_size") or header.image_size) != header.image_size:
        raise BadRecipe(f"{source} was quantized for {height}x{width} pixels: quantize the checkpoint anew for others.")
    return fixed


def _header(content: dict[str, Any]) -> ProgramHeader:
    image = content["inputs"][0]
    batch = image["shape"][0]
    height, width = content["spec"]["image_size"]
    return ProgramHeader(
        scheme=content["record"]["scheme"],
        batch=batch if isinstance(batch, int) else "dynamic",
        input=image["dtype"],
        image_size=(height, width),
        zero_points=any(layer["activation"] in _UNSIGNED for layer in content["record"]["layers"]),
    )


def _place(archive: zipfile.ZipFile) -> str:
    """Returns the full name of the header's entry: PyTorch names the archive's root after the file, or ``archive``."""
    return next(name for name in archive.namelist() if name.endswith(f"/extra/{ENTRY}"))
