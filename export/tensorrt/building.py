# SPDX-License-Identifier: Apache-2.0
"""Builds an engine of TensorRT from an ONNX file, in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, Any

from vitedge import errors, registry
from vitedge.errors import CheckFailed, OutputRefused, VitedgeError
from vitedge.export.tensorrt import child
from vitedge.export.tensorrt.products import match_products
from vitedge.export.tensorrt.refusals import check_file
from vitedge.export.tensorrt.request import BuiltEngine, EngineRequest
from vitedge.files.digest import hash_file
from vitedge.files.plain import from_dict, to_dict
from vitedge.files.replacing import clear_debris, replacing_file
from vitedge.records import EngineRecord
from vitedge.registry import Part, Table
from vitedge.sentences import fate

BUILDERS: Table = {
    "tensorrt-rtx": Part(
        "TensorRT for RTX",
        "vitedge.export.tensorrt.rtx",
        ("tensorrt_rtx",),
        "pip install 'vitedge[tensorrt-rtx]'",
        systems=("Linux", "Windows"),
        otherwise="NVIDIA publishes it for Linux and Windows; build the engine on one of these",
    ),
}
"""Builders of engines: modules with ``build(request)``, which returns the engine's bytes and a `BuiltEngine`. They are
imported by the process that builds, and by no other."""


def build(request: EngineRequest, builder: str = "tensorrt-rtx") -> EngineRecord:
    """Builds an engine and writes it in one step; where that fails, what was there before stays.

    Args:
        request: what to build; its progress is called from this thread.
        builder: a key of `BUILDERS`.

    Raises:
        MissingBackend: the builder's package is not installed, or it needs a GPU that is not here.
        BadRecipe: a target, a shape or an option that the builder does not take.
        UnreadableArtifact: the file is no ONNX model, or one that the builder does not read.
        CheckFailed: the file cannot be built for a target, or the builder crashed or took too long.
        OutputRefused: the engine cannot be written.
    """
    part = registry.usable(BUILDERS, builder)
    graph = check_file(request, builder)
    if not request.out.parent.is_dir():
        raise OutputRefused(f"There is no folder {request.out.parent} to write {request.out.name} into.")
    clear_debris(request.out)
    digest, begin = hash_file(request.onnx), time.perf_counter()
    with replacing_file(request.out) as partial, _Process(part.title, request) as process:
        built = process.result(f"{part.module}:build", partial)
    seconds = time.perf_counter() - begin
    products, attentions = match_products(graph, built.layers) if built.layers is not None else ((), ())
    return EngineRecord(
        builder=builder,
        version=built.version,
        targets=built.targets,
        shapes=built.shapes,
        options=built.options,
        onnx_sha256=digest,
        seconds=seconds,
        layers=built.layers,
        products=products,
        attentions=attentions,
    )


class _Process(contextlib.AbstractContextManager["_Process"]):
    """The process that builds one engine; it is ended with the block, whatever happened in it.

    Args:
        title: name of the builder in sentences.
        request: what it builds.
    """

    def __init__(self, title: str, request: EngineRequest) -> None:
        self._title = title
        self._request = request
        self._deadline = time.monotonic() + request.limit_s
        self._words = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        search = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        self._process = subprocess.Popen(
            [sys.executable, "-m", child.__name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._words,
            env={**os.environ, "PYTHONPATH": search},
            start_new_session=True,  # Ctrl-C reaches the command alone, which then ends its children
        )
        self._answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._listener = threading.Thread(target=self._listen, args=(self._process.stdout,), daemon=True)
        self._listener.start()

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._listener.join()
        for stream in (self._process.stdin, self._process.stdout, self._words):
            if stream is not None:
                with contextlib.suppress(OSError):  # an order that was not sent, to a process that is gone
                    stream.close()

    def result(self, function: str, place: Path) -> BuiltEngine:
        """Has a function build the engine and write it to a place; passes the phases on meanwhile.

        Raises:
            VitedgeError: what the function raised, of the same class.
            CheckFailed: the process ended without an answer, or the time is over.
        """
        request = self._request
        order = child.Order(function, str(request.onnx), str(place), request.targets, request.shapes, request.options)
        self._send(order)
        while True:
            answer = self._answer()
            if "built" in answer:
                return from_dict(BuiltEngine, answer["built"])
            if "error" in answer:
                raise _error(answer["error"], answer["message"])
            request.progress(answer["phase"])

    def _send(self, order: child.Order) -> None:
        stream: Any = self._process.stdin
        with contextlib.suppress(OSError):  # the process has ended, and `_answer` tells how
            stream.write(json.dumps(to_dict(order)).encode() + b"\n")
            stream.flush()

    def _answer(self) -> dict[str, Any]:
        try:
            line = self._answers.get(timeout=max(self._deadline - time.monotonic(), 0.0))
        except queue.Empty:
            raise CheckFailed(
                f"{self._title} did not build {self._request.onnx} within {self._request.limit_s:g} s, and was ended."
            ) from None
        if not line:
            end = fate(self._process.wait())
            raise CheckFailed(f"{self._title}: its process {end} while it built {self._request.onnx}{self._last()}.")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _listen(self, stream: IO[bytes]) -> None:
        for line in stream:
            self._answers.put(line)
        self._answers.put(b"")

    def _last(self) -> str:
        """Returns the last line that the process printed, in brackets."""
        self._words.seek(0)
        lines = [line.strip() for line in self._words.read().decode(errors="replace").splitlines() if line.strip()]
        return f" ({lines[-1].rstrip('.')})" if lines else ""


def _error(name: str, message: str) -> VitedgeError:
    kind = getattr(errors, name, CheckFailed)
    found: VitedgeError = kind(message)
    return found
