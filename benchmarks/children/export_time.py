# SPDX-License-Identifier: Apache-2.0
"""Times a bare ``torch.onnx.export`` and a whole verified export of vitedge, in turn in this process.

``python -m benchmarks.children.export_time NAME CHECKPOINT FOLDER ROUNDS`` reports the seconds of every round.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import timm
import torch

import vitedge
from benchmarks.child import report
from vitedge.recipe import ExportRecipe


def measure(name: str, checkpoint: str, folder: Path, rounds: int) -> dict[str, list[float]]:
    size = timm.get_pretrained_cfg(name).input_size[1]
    module = vitedge.load(checkpoint).module
    image = torch.zeros(1, 3, size, size)

    def bare(out: Path) -> None:
        with torch.no_grad():
            torch.onnx.export(module, (image,), out, dynamo=True, verbose=False)

    def ours(out: Path) -> None:
        vitedge.export(checkpoint, out, ExportRecipe())

    seconds: dict[str, list[float]] = {"bare": [], "vitedge": []}
    for turn in range(rounds + 1):  # the first of each warms up and is left out
        for kind, run, out in (("bare", bare, folder / f"{turn}.onnx"), ("vitedge", ours, folder / f"{turn}")):
            start = time.perf_counter()
            run(out)
            seconds[kind].append(time.perf_counter() - start)
    return {kind: times[1:] for kind, times in seconds.items()}


if __name__ == "__main__":
    report(measure(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])))
