# SPDX-License-Identifier: Apache-2.0
"""What calibration costs: time against plain forward passes over the same images, and memory against their number.

``python -m benchmarks.quantization_cost`` from the root of the repository writes
``benchmarks/results/quantization_cost.json``; ``--ours`` leaves the other tools out, which take most of the time. The
cache of what was seen is in an empty folder, so that nothing is known beforehand. A figure that misses its bar is
written down like any other and ends the script with exit code 1.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch

from benchmarks.quantization_models import lower, provenance, write_images
from benchmarks.quantization_peers import PEERS, quantize
from tests.seeding import seeded
from vitedge.images.synthetic import synthesize

RESULTS = Path(__file__).with_name("results") / "quantization_cost.json"
MODEL = "vit_base_patch16_224"
SIDE = 248
"""Short side of an image before its centre is cut out."""
CALIBRATING = "calibrating"
IMAGES = 256
FEW, MANY = 128, 1024
ROUNDS = 3
BARS = {"calibration": 1.5, "memory": 1.05}
"""Time of the calibration over that of the forward passes; peak memory at many images over that at few."""

OURS = """
import json, sys, time
from pathlib import Path
import torch
import vitedge
from vitedge.images.preprocess import normalize
from vitedge.images.stream import open_images
from vitedge.verbs.quantize import quantize_reference
from vitedge.quantization.observing import BATCH
from vitedge.recipe import ResolvedRecipe, QuantizationRecipe

def forward():
    total = 0.0
    with torch.inference_mode():
        for pixels in open_images(images, reference.spec, count).batches(BATCH):
            batch = torch.from_numpy(normalize(pixels, reference.spec.preprocessing))
            start = time.perf_counter()
            reference.module(batch)
            total += time.perf_counter() - start
    return total

checkpoint, images, count, timed = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "timed"
reference = vitedge.load(checkpoint)
recipe = ResolvedRecipe(precision="int8", quantization=QuantizationRecipe(images=images, image_count=count))
before = forward() if timed else None
job = prepare(reference, recipe, features=False, progress=lambda text: None)
after = forward() if timed else None
lines = Path("/proc/self/status").read_text().splitlines()
print("RESULT", json.dumps({
    "seconds": job.seconds, "forward": [before, after], "batch": BATCH, "threads": torch.get_num_threads(),
    "peak_bytes": next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")),
}))
"""
PLAIN = """
import json, sys, time
import numpy as np
from vitedge.runtimes import onnxruntime, openvino
model, images, kind = sys.argv[1:4]
module = {"onnxruntime": onnxruntime, "openvino": openvino}[kind]
with module.Runtime(model) as runtime:
    (image,) = runtime.inputs
    loaded = np.load(images)
    runtime.run({image.name: loaded[:1]})
    start = time.perf_counter()
    for one in loaded:
        runtime.run({image.name: one[None]})
print("RESULT", json.dumps({"seconds": time.perf_counter() - start}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ours", action="store_true", help="keep the rows of the other tools")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = folder / f"{MODEL}.pth"
        torch.save(dict(seeded(timm.create_model(MODEL)).state_dict()), checkpoint)
        np.save(folder / "images.npy", synthesize(MANY, SIDE, SIDE, 0).transpose(0, 2, 3, 1))
        rows = measure_time(checkpoint, folder) | measure_memory(checkpoint, folder)
        if not asked.ours:
            rows |= measure_peers(checkpoint, folder)
        elif asked.output.exists():
            kept = json.loads(asked.output.read_text(encoding="utf-8"))["rows"]
            rows |= {name: row for name, row in kept.items() if name not in rows}
    missed = [name for name, row in rows.items() if row.get("bar") and row["figure"] > row["bar"]]
    told = provenance(weights="seeded", model=MODEL, images="synthetic, seed 0", rounds=ROUNDS)
    asked.output.write_text(json.dumps({"provenance": told, "rows": rows, "missed": missed}, indent=1) + "\n")
    for name, row in rows.items():
        print(f"{name:32} {row['figure']:6.2f}   bar {row.get('bar', '-')}   {'MISSED' if name in missed else ''}")
    sys.exit(bool(missed))


def measure_time(checkpoint: Path, folder: Path) -> dict[str, Any]:
    """Range calibration between two turns of plain forward passes over the same images, in batches of the same size."""
    runs = [process(OURS, checkpoint, folder / "images.npy", IMAGES, "timed") for _ in range(ROUNDS)]
    ratios = [run["seconds"][CALIBRATING] / statistics.mean(run["forward"]) for run in runs]
    figure = {"figure": statistics.median(ratios), "bar": BARS["calibration"], "ratios": ratios, "runs": runs}
    return {"calibration over forward passes": figure}


def measure_memory(checkpoint: Path, folder: Path) -> dict[str, Any]:
    """Largest resident set of a whole quantization over many images against that over few."""
    peaks = {
        count: process(OURS, checkpoint, folder / "images.npy", count, "untimed")["peak_bytes"] for count in (FEW, MANY)
    }
    figure = {"figure": peaks[MANY] / peaks[FEW], "bar": BARS["memory"], "peak_bytes": peaks}
    return {f"memory at {MANY} over {FEW} images": figure}


def measure_peers(checkpoint: Path, folder: Path) -> dict[str, Any]:
    """What the other tools take for a whole quantization over their own runtime's forward passes at batch 1."""
    images = write_images(checkpoint, folder / "normalized.npy", IMAGES)
    model = lower(checkpoint, folder / "fp32")
    rows = {}
    for method, runtime in (("static", "onnxruntime"), ("nncf-openvino", "openvino")):
        start = time.perf_counter()
        quantize(method, model, images, folder)
        seconds = time.perf_counter() - start
        plain = process(PLAIN, model, images, runtime)["seconds"]
        rows[f"{PEERS[method].title} over forward passes"] = {
            "figure": seconds / plain,
            "seconds": seconds,
            "forward": plain,
        }
    return rows


def process(code: str, *arguments: object) -> dict[str, Any]:
    """Runs code in a process of its own, with an empty cache; what it printed after the word RESULT."""
    with tempfile.TemporaryDirectory() as cache:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "VITEDGE_CACHE": cache},
        )
    result: dict[str, Any] = json.loads(done.stdout.rpartition("RESULT ")[2])
    return result


if __name__ == "__main__":
    main()
