# SPDX-License-Identifier: Apache-2.0
"""The program of a process that builds one engine: a fault in a builder ends it, and not the command.

It reads one JSON line, the order, and writes JSON lines: ``{"phase": …}`` while it builds, and at the end ``{"built": …}``
or ``{"error": …, "message": …}``. It ends at once when its input does, so that it never outlives the command.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from vitedge import registry
from vitedge.errors import VitedgeError
from vitedge.export.tensorrt.request import EngineRequest
from vitedge.files.plain import to_dict


def order(module: str, request: EngineRequest, place: Path) -> dict[str, Any]:
    """Returns the order for one build as plain values.

    Args:
        module: dotted name of the builder's module.
        request: what to build; its progress is passed on by the parent.
        place: where the process writes the bytes of the engine.
    """
    return {
        "build": f"{module}:build",
        "onnx": str(request.onnx),
        "out": str(place),
        "targets": list(request.targets),
        "shapes": {name: [list(shape) for shape in shapes] for name, shapes in request.shapes.items()},
        "options": dict(request.options),
    }


def obey(given: Mapping[str, Any], report: Callable[[dict[str, Any]], None]) -> None:
    """Builds what an order says, and reports phases, the result or the error.

    Args:
        given: see `order`.
        report: takes one answer as plain values.
    """
    request = EngineRequest(
        onnx=Path(given["onnx"]),
        out=Path(given["out"]),
        targets=tuple(given["targets"]),
        shapes={name: tuple(tuple(shape) for shape in shapes) for name, shapes in given["shapes"].items()},
        options=given["options"],
        progress=lambda phase: report({"phase": phase}),
    )
    try:
        content, built = registry.function(given["build"])(request)
        request.out.write_bytes(content)
    except (VitedgeError, OSError) as error:
        report({"error": type(error).__name__, "message": str(error)})
    else:
        report({"built": to_dict(built)})


def main() -> None:
    """Obeys the order on the standard input; lines that libraries print go to the error output."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)
        given = json.loads(sys.stdin.readline())
        threading.Thread(target=_end_with, args=(sys.stdin,), daemon=True).start()

        def report(answer: dict[str, Any]) -> None:
            answers.write(json.dumps(answer) + "\n")
            answers.flush()

        obey(given, report)


def _end_with(stream: IO[str]) -> None:
    """Ends the process when the stream ends, which is when the command has gone."""
    stream.read()
    os._exit(1)


if __name__ == "__main__":
    main()
