# SPDX-License-Identifier: Apache-2.0
"""Measures the memory of a Core ML package that is computed op by op, and of its PyTorch module's activations. Linux.

``python -m benchmarks.children.mlprogram_memory CHECKPOINT PACKAGE`` reports bytes.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from pathlib import Path

import numpy as np
import torch

import vitedge
from benchmarks.child import report
from vitedge.runtimes.mlprogram import Runtime


def status(field: str) -> int:
    """Returns a field of this process' status in bytes."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # freed memory goes back to the system, so that only memory in use is counted
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def reset_peak() -> None:
    """Lets the peak begin anew at the present size."""
    Path("/proc/self/clear_refs").write_text("5")


def copied(weights: Path) -> int:
    """Returns the bytes of the weights' file that were written to, and so are in memory a second time."""
    ours, total = False, 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            ours = line.endswith(str(weights))
        elif ours and line.startswith("Anonymous:"):
            total += int(line.split()[1]) * 1024
    return total


def run_once(package: Path) -> dict[str, np.ndarray]:
    """Runs the package once, so that the memory that libraries keep for themselves is taken; returns the inputs."""
    with Runtime(package) as runtime:
        (given,) = runtime.inputs
        feeds = {given.name: np.random.default_rng(0).normal(size=given.shape).astype(np.float32)}
        runtime.run(feeds)
    return feeds


def measure_package(package: Path, feeds: dict[str, np.ndarray]) -> dict[str, int]:
    before = status("VmRSS")
    reset_peak()
    with Runtime(package) as runtime:
        loaded = status("VmRSS") - before
        for _ in range(2):
            runtime.run(feeds)
        peak = status("VmHWM") - before
        held = status("VmRSS") - before
        written = copied(next(package.resolve().rglob("weight.bin")))
    return {"loaded": loaded, "held": held, "written": written, "peak": peak}


def measure_module(checkpoint: str, image: np.ndarray) -> int:
    reference = vitedge.load(checkpoint)
    before = status("VmRSS")
    reset_peak()
    with torch.inference_mode():
        reference.module(torch.from_numpy(image))
    return status("VmHWM") - before


if __name__ == "__main__":
    inputs = run_once(Path(sys.argv[2]))
    found = measure_package(Path(sys.argv[2]), inputs)
    (pixels,) = inputs.values()
    report({**found, "module_activations": measure_module(sys.argv[1], pixels)})
