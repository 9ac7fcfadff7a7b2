# SPDX-License-Identifier: Apache-2.0
"""Lowers a model to ONNX by the tree that is on ``PYTHONPATH``, and says what came out and what it took. Linux.

``python benchmarks/children/onnx_lowering.py SOURCE PRECISION BATCH OUT`` reports counts and digests of the file, the
processor's seconds of every lowering and of its passes, and the peak memory of the process in bytes.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

import vitedge
from benchmarks.child import report
from vitedge.export import to_onnx
from vitedge.program.capture import capture
from vitedge.program.program import Program
from vitedge.quantization.file.model import read_model
from vitedge.recipe import Precision, ResolvedRecipe

TURNS = 3
"""Lowerings that are timed, after one that warms up."""
FREE_EDGE = 3
"""Images in a batch whose size is free."""


def measure(source: Path, precision: str, batch: str, out: Path) -> dict[str, Any]:
    torch.set_num_threads(1)
    size = "dynamic" if batch == "dynamic" else int(batch)
    program = program_of(source, size)
    recipe = ResolvedRecipe(formats=("onnx",), precision=Precision(precision), batch=size)
    clock = Clock()
    times = [clock.lower(program, recipe, out) for _ in range(TURNS + 1)][1:]
    peak = peak_memory()
    model = onnx.load(out)
    return {
        "nodes": len(model.graph.node),
        "initializers": len(model.graph.initializer),
        "size": out.stat().st_size,
        "sha256": hashlib.sha256(out.read_bytes()).hexdigest(),
        "lower_s": [whole for whole, _ in times],
        "passes_s": [passes for _, passes in times],
        "peak_bytes": peak,
        **run(out),
    }


def program_of(source: Path, batch: int | str) -> Program:
    """The quantized program of a file, or what a checkpoint's reference computes."""
    if source.suffix == ".pt2":
        return read_model(source).program
    reference = vitedge.load(str(source))
    return capture(reference.module, reference.spec, reference.blocks, batch=batch)


class Clock:
    """Seconds of a lowering, and those between the exporter's translation and the stamping of the opset."""

    def __init__(self) -> None:
        self.marks: list[float] = []
        to_onnx._translate = self.marking(to_onnx._translate, after=True)
        to_onnx.retarget = self.marking(to_onnx.retarget, after=False)  # type: ignore[attr-defined]

    def marking(self, function: Callable[..., Any], *, after: bool) -> Callable[..., Any]:
        """The function, which notes the time before or after each call."""

        def marked(*arguments: Any) -> Any:
            if not after:
                self.marks.append(time.process_time())
            result = function(*arguments)
            if after:
                self.marks.append(time.process_time())
            return result

        return marked

    def lower(self, program: Program, recipe: ResolvedRecipe, out: Path) -> tuple[float, float]:
        """Seconds of the whole, and of the passes."""
        self.marks.clear()
        start = time.process_time()
        to_onnx.lower(program, recipe, out)
        whole = time.process_time() - start
        first, last = self.marks
        return whole, last - first


def run(out: Path) -> dict[str, Any]:
    """What ONNX Runtime makes of the file, and what it computes for seeded noise."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.optimized_model_filepath = str(out.with_suffix(".optimized.onnx"))
    session = onnxruntime.InferenceSession(str(out), options, providers=["CPUExecutionProvider"])
    (image,) = session.get_inputs()
    shape = [edge if isinstance(edge, int) else FREE_EDGE for edge in image.shape]
    results = session.run(None, {image.name: np.random.default_rng(0).normal(size=shape).astype(np.float32)})
    digest = hashlib.sha256(b"".join(result.tobytes() for result in results)).hexdigest()
    optimized = onnx.load(options.optimized_model_filepath, load_external_data=False)
    return {"optimized_nodes": len(optimized.graph.node), "outputs_sha256": digest}


def peak_memory() -> int:
    """Largest resident set of this process in bytes, as the kernel accounts it (``VmHWM``)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    report(measure(Path(sys.argv[1]), sys.argv[2], sys.argv[3], Path(sys.argv[4])))
