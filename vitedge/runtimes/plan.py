# SPDX-License-Identifier: Apache-2.0
"""The head of an engine file: which TensorRT wrote it.

The layout for the classic TensorRT is the one that ``trtexec --getPlanVersionOnly`` reads (NVIDIA/TensorRT,
``samples/common/sampleEngines.cpp``, 10.0 and newer): four bytes of tag, a 32-bit number of the layout, and in layout 0
the four parts of the version at byte 24. TensorRT for RTX has a tag of its own, which its library names when it refuses
another; nothing further is read of its files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vitedge.errors import UnreadableArtifact
from vitedge.registry import Part

HEAD = 28
"""Bytes that `parse_head` needs."""


@dataclass(frozen=True)
class Plan:
    """What the head of an engine file says."""

    library: str
    """A key of `LIBRARIES`."""
    version: str
    """Version that wrote it, to the last part, such as ``10.3.0.26``; empty where the head does not tell."""


LIBRARIES: Mapping[str, Part] = {
    "tensorrt": Part("TensorRT", "tensorrt", ("tensorrt",), "pip install 'vitedge[tensorrt]'"),
    "tensorrt-rtx": Part("TensorRT for RTX", "tensorrt_rtx", ("tensorrt_rtx",), "pip install 'vitedge[tensorrt-rtx]'"),
}
"""Builder of an engine, as its record names it, to the package that runs it; their API is one."""

_TAGS = {b"ftrt": "tensorrt", b"vtrt": "tensorrt-rtx"}


def read_plan(path: Path) -> Plan:
    """Reads the head of an engine file.

    Raises:
        UnreadableArtifact: the file is not there, or is no engine.
    """
    try:
        with path.open("rb") as file:
            return parse_head(file.read(HEAD))
    except OSError as error:
        raise UnreadableArtifact(f"{path} cannot be read ({error.strerror}); an engine is one file.") from error
    except ValueError as error:
        raise UnreadableArtifact(
            f"{path} is not an engine of TensorRT ({error}); build one with: vitedge export --format tensorrt"
        ) from error


def parse_head(head: bytes) -> Plan:
    """Returns what the first bytes of an engine say.

    Args:
        head: the first `HEAD` bytes, or more.

    Raises:
        ValueError: they are no engine's.
    """
    library = _TAGS.get(head[:4])
    if library is None or len(head) < HEAD:
        raise ValueError(f"it begins with {head[:4]!r}" if head else "it is empty")
    told = library == "tensorrt" and int.from_bytes(head[4:8], "little") == 0
    return Plan(library, ".".join(str(part) for part in head[24:HEAD]) if told else "")
