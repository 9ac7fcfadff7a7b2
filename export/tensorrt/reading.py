# SPDX-License-Identifier: Apache-2.0
"""Whether a builder's own parser reads an ONNX file: a check of reading, which says nothing of building or speed.

TensorRT-RTX and the classic TensorRT share the code of their parsers: a file that the one refuses for an operator, a
zero point, a type or external data would very probably be refused by the other. The reverse does not hold.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from vitedge import registry
from vitedge.errors import UnreadableArtifact
from vitedge.export.tensorrt.building import BUILDERS
from vitedge.export.tensorrt.process import BuilderProcess
from vitedge.export.tensorrt.request import EngineRequest
from vitedge.registry import Table

PARSERS: Table = {
    "tensorrt-rtx": replace(BUILDERS["tensorrt-rtx"], module="vitedge.export.tensorrt.rtx_parser"),
}
"""Parsers: modules with ``read(request)``. They are imported by the process that reads, and by no other."""
_LIMIT_S = 120.0


def refusal(path: Path, parser: str = "tensorrt-rtx") -> str:
    """Returns why a builder's parser refuses a file, as a sentence; empty where it reads it.

    Args:
        path: an ONNX file, its weights in it or beside it.
        parser: a key of `PARSERS`.

    Raises:
        MissingBackend: the parser's package is not installed, or does not work on this system.
        CheckFailed: the parser crashed or took too long.
    """
    part = registry.usable(PARSERS, parser)
    request = EngineRequest(path, path, (), limit_s=_LIMIT_S)
    try:
        with BuilderProcess(part, request) as process:
            process.result("read")
    except UnreadableArtifact as error:
        return str(error)
    return ""
