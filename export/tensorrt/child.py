# SPDX-License-Identifier: Apache-2.0
"""The program of a process that builds one engine, or reads one file: a fault there ends it, and not the command.

It reads one JSON line, an `Order`, and writes JSON lines: ``{"phase": …}`` while it works, and at the end
``{"error": …, "message": …}`` or ``{"built": …}``, which is null where a file was only read. It ends at once when its
input does, so that it never outlives the command.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from vitedge import registry
from vitedge.errors import OutputRefused, VitedgeError
from vitedge.export.tensorrt.request import EngineRequest, Shape
from vitedge.files.plain import from_dict, to_dict
from vitedge.registry import Part


@dataclass(frozen=True)
class Order:
    """What the process is told; the fields of an `EngineRequest` as plain values."""

    title: str
    """Of the `Part` whose module does the work, and its other fields."""
    module: str
    install: str
    function: str
    """Name of the function of the module that builds or reads."""
    onnx: str
    place: str
    """Where the bytes of the engine are written, if there are any."""
    targets: tuple[str, ...]
    shapes: Mapping[str, tuple[Shape, Shape, Shape]]
    options: Mapping[str, int | bool | str]


def obey(order: Order, report: Callable[[dict[str, Any]], None]) -> None:
    """Does what an order says, and reports phases, the result or the error.

    Args:
        order: what to build or read.
        report: takes one answer as plain values.
    """
    request = EngineRequest(
        onnx=Path(order.onnx),
        out=Path(order.place),
        targets=order.targets,
        shapes=order.shapes,
        options=order.options,
        progress=lambda phase: report({"phase": phase}),
    )
    try:
        module = registry.imported(Part(order.title, order.module, install=order.install))
        result = getattr(module, order.function)(request)
        if result is not None:
            content, built = result
            _write(content, request.out)
    except VitedgeError as error:
        report({"error": type(error).__name__, "message": str(error)})
    else:
        report({"built": None if result is None else to_dict(built)})


def _write(content: bytes, place: Path) -> None:
    try:
        place.write_bytes(content)
    except OSError as error:
        raise OutputRefused(f"The engine cannot be written: {error.strerror}.") from error


def main() -> None:
    """Obeys the order on the standard input; lines that libraries print go to the error output."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)
        order = from_dict(Order, json.loads(sys.stdin.readline()))
        threading.Thread(target=_end_with, args=(sys.stdin,), daemon=True).start()

        def report(answer: dict[str, Any]) -> None:
            answers.write(json.dumps(answer) + "\n")
            answers.flush()

        obey(order, report)


def _end_with(stream: IO[str]) -> None:
    """Ends the process when the stream ends, which is when the command has gone."""
    stream.read()
    os._exit(1)


if __name__ == "__main__":
    main()
