# SPDX-License-Identifier: Apache-2.0
"""What a quantized program says of itself, read without PyTorch, so that what is asked in vain is refused at once."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

from vitedge.errors import UnreadableArtifact

SUFFIX = ".pt2"
FORMAT_VERSION = 1
ENTRY = "vitedge.json"


@dataclass(frozen=True)
class Header:
    """What was settled when the program was quantized."""

    scheme: str
    batch: int | str
    """A number, or ``dynamic``."""
    input: str
    """Type of the image: ``float32`` or ``uint8``."""


def read_header(path: Path) -> Header:
    """Reads the header of a ``.pt2`` file.

    Raises:
        UnreadableArtifact: there is none that vitedge wrote, or it is of another version.
    """
    if not path.is_file():
        raise UnreadableArtifact(f"There is no {path}.")
    try:
        with zipfile.ZipFile(path) as archive:
            content = json.loads(archive.read(_place(archive)))
        if content["format_version"] == FORMAT_VERSION:
            image = content["inputs"][0]
            batch = image["shape"][0]
            return Header(content["record"]["scheme"], batch if isinstance(batch, int) else "dynamic", image["dtype"])
    except Exception as error:  # a damaged archive may say anything
        raise UnreadableArtifact(f"{path} is not a {SUFFIX} file that vitedge quantize wrote.") from error
    raise UnreadableArtifact(f"{path} has format {content['format_version']}; this vitedge reads {FORMAT_VERSION}.")


def _place(archive: zipfile.ZipFile) -> str:
    """The name of the entry: PyTorch names the archive's root after the file, or ``archive``."""
    return next(name for name in archive.namelist() if name.endswith(f"/extra/{ENTRY}"))
