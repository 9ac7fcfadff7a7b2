# SPDX-License-Identifier: Apache-2.0
"""Quantizes a checkpoint; where it is timed, between two turns of plain forward passes over the same images. Linux.

``python -m benchmarks.children.calibration CHECKPOINT IMAGES COUNT timed|untimed`` reports the seconds of every stage,
those of the forward passes before and after, and the peak memory of the process in bytes.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import torch

import vitedge
from benchmarks.child import report
from vitedge.export.formats import PROCESSOR
from vitedge.images.preprocess import normalize
from vitedge.images.stream import open_images
from vitedge.models.reference import Reference
from vitedge.quantization.observing import calibration_batch
from vitedge.recipe import QuantizationRecipe, ResolvedRecipe
from vitedge.verbs.quantize import quantize_reference


def forward(reference: Reference, images: str, count: int) -> float:
    """Returns the seconds of the model's forward passes over all images."""
    total = 0.0
    with torch.inference_mode():
        for pixels in open_images(images, reference.spec, count).batches(calibration_batch()):
            batch = torch.from_numpy(normalize(pixels, reference.spec.preprocessing))
            start = time.perf_counter()
            reference.module(batch)
            total += time.perf_counter() - start
    return total


def measure(checkpoint: str, images: str, count: int, *, timed: bool) -> dict[str, Any]:
    reference = vitedge.load(checkpoint)
    quantization = QuantizationRecipe(images=images, image_count=count)
    recipe = ResolvedRecipe(formats=("onnx",), precision="int8", quantization=quantization)
    before = forward(reference, images, count) if timed else None
    job = quantize_reference(reference, recipe, PROCESSOR, features=False)
    after = forward(reference, images, count) if timed else None
    lines = Path("/proc/self/status").read_text().splitlines()
    return {
        "seconds": job.seconds,
        "forward": [before, after],
        "batch": calibration_batch(),
        "threads": torch.get_num_threads(),
        "peak_bytes": next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")),
    }


if __name__ == "__main__":
    report(measure(sys.argv[1], sys.argv[2], int(sys.argv[3]), timed=sys.argv[4] == "timed"))
