# SPDX-License-Identifier: Apache-2.0
"""Times a Core ML package, computed op by op, in turn with its PyTorch module at batch 1.

``python -m benchmarks.children.mlprogram_time CHECKPOINT PACKAGE ROUNDS`` reports the seconds of every round, the
largest difference of the outputs relative to their largest magnitude, and the number of operations.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
import torch

import vitedge
from benchmarks.child import report
from vitedge.runtimes.mlprogram import Runtime

WARM_UP = 3
"""Rounds that are left out."""


def measure(checkpoint: str, package: str, rounds: int) -> dict[str, Any]:
    module = vitedge.load(checkpoint).module
    with Runtime(package) as runtime, torch.inference_mode():
        (given,), (made,) = runtime.inputs, runtime.outputs
        image = np.random.default_rng(0).normal(size=given.shape).astype(np.float32)
        tensor = torch.from_numpy(image)
        runners = {
            "module": lambda: module(tensor).numpy(),
            "program": lambda: runtime.run({given.name: image})[made.name],
        }
        seconds: dict[str, list[float]] = {kind: [] for kind in runners}
        results = {}
        for _ in range(rounds + WARM_UP):
            for kind, run in runners.items():
                start = time.perf_counter()
                results[kind] = run()
                seconds[kind].append(time.perf_counter() - start)
        operations = len(runtime._interpreter._steps)
    error = np.abs(results["program"] - results["module"]).max() / np.abs(results["module"]).max()
    return {
        "seconds": {kind: times[WARM_UP:] for kind, times in seconds.items()},
        "relative": float(error),
        "operations": operations,
        "threads": torch.get_num_threads(),
    }


if __name__ == "__main__":
    report(measure(sys.argv[1], sys.argv[2], int(sys.argv[3])))
