# SPDX-License-Identifier: Apache-2.0
"""Builds an engine of TensorRT from an ONNX file, in a process of its own."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from vitedge import errors, registry
from vitedge.errors import CheckFailed, VitedgeError
from vitedge.export.tensorrt import child
from vitedge.export.tensorrt.products import match_products
from vitedge.export.tensorrt.request import BuiltEngine, EngineRequest
from vitedge.files.digest import hash_file
from vitedge.files.plain import from_dict
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
"""Builders of engines: modules with ``build(request)``, which returns the bytes and a `BuiltEngine`. They are imported
by the process that builds, and by no other."""


def build(request: EngineRequest, builder: str = "tensorrt-rtx") -> EngineRecord:
    """Builds an engine and writes it in one step; what was there before stays where it fails.

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
    digest = hash_file(request.onnx)
    clear_debris(request.out)
    begin = time.perf_counter()
    with replacing_file(request.out) as partial:
        built = _built(request, part, partial)
    seconds = time.perf_counter() - begin
    products, attentions = match_products(request.onnx, built.layers) if built.layers is not None else ((), ())
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


def _built(request: EngineRequest, part: Part, place: Path) -> BuiltEngine:
    """Runs the process of the builder, which writes the engine to a place."""
    with tempfile.TemporaryFile() as words:
        process = subprocess.Popen(
            [sys.executable, "-m", child.__name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=words,
            start_new_session=True,  # Ctrl-C reaches the command alone, which then ends its children
        )
        answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        listener = threading.Thread(target=_listen, args=(process, answers), daemon=True)
        listener.start()
        try:
            assert process.stdin is not None
            process.stdin.write(json.dumps(child.order(part.module, request, place)).encode() + b"\n")
            process.stdin.flush()
            return _followed(process, answers, request, part)
        finally:
            process.kill()
            process.wait()


def _listen(process: subprocess.Popen[bytes], answers: queue.SimpleQueue[bytes]) -> None:
    for line in process.stdout or ():
        answers.put(line)
    answers.put(b"")


def _followed(
    process: subprocess.Popen[bytes], answers: queue.SimpleQueue[bytes], request: EngineRequest, part: Part
) -> BuiltEngine:
    title, deadline = part.title, time.monotonic() + request.limit_s
    while True:
        try:
            line = answers.get(timeout=max(deadline - time.monotonic(), 0.0))
        except queue.Empty:
            raise CheckFailed(
                f"{title} did not build {request.onnx} within {request.limit_s:g} s; it was ended."
            ) from None
        if not line:
            raise CheckFailed(f"{title}: its process {fate(process.wait())} while it built {request.onnx}.")
        answer: dict[str, Any] = json.loads(line)
        if "built" in answer:
            return from_dict(BuiltEngine, answer["built"])
        if "error" in answer:
            raise _error(answer)
        request.progress(answer["phase"])


def _error(answer: dict[str, Any]) -> VitedgeError:
    kind = getattr(errors, answer["error"], CheckFailed)
    found: VitedgeError = kind(answer["message"])
    return found
