# SPDX-License-Identifier: Apache-2.0
"""Measures calibration: time against plain forward passes over the same images, and memory against their number.

``python -m benchmarks.quantization_cost`` from the root of the repository writes
``benchmarks/results/quantization_cost.json``; ``--ours`` leaves the other tools out, which take most of the time. The
cache of observations is in an empty folder. A figure that misses its limit is
written down like any other and ends the script with exit code 1.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch

from benchmarks.child import run_child
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
LIMITS = {"calibration": 1.5, "memory": 1.05}
"""Time of the calibration over that of the forward passes; peak memory at many images over that at few."""


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
        print(f"{name:32} {row['figure']:6.2f}   limit {row.get('bar', '-')}   {'MISSED' if name in missed else ''}")
    sys.exit(bool(missed))


def measure_time(checkpoint: Path, folder: Path) -> dict[str, Any]:
    """Range calibration between two turns of plain forward passes over the same images, in batches of the same size."""
    runs = [calibrate(checkpoint, folder / "images.npy", IMAGES, "timed") for _ in range(ROUNDS)]
    ratios = [run["seconds"][CALIBRATING] / statistics.mean(run["forward"]) for run in runs]
    figure = {"figure": statistics.median(ratios), "bar": LIMITS["calibration"], "ratios": ratios, "runs": runs}
    return {"calibration over forward passes": figure}


def measure_memory(checkpoint: Path, folder: Path) -> dict[str, Any]:
    """Largest resident set of a whole quantization over many images against that over few."""
    peaks = {
        count: calibrate(checkpoint, folder / "images.npy", count, "untimed")["peak_bytes"] for count in (FEW, MANY)
    }
    figure = {"figure": peaks[MANY] / peaks[FEW], "bar": LIMITS["memory"], "peak_bytes": peaks}
    return {f"memory at {MANY} over {FEW} images": figure}


def measure_peers(checkpoint: Path, folder: Path) -> dict[str, Any]:
    """Returns the other tools' time for a whole quantization over that of their runtime's forward passes at batch 1."""
    images = write_images(checkpoint, folder / "normalized.npy", IMAGES)
    model = lower(checkpoint, folder / "fp32")
    rows = {}
    for method, runtime in (("static", "onnxruntime"), ("nncf-openvino", "openvino")):
        start = time.perf_counter()
        quantize(method, model, images, folder)
        seconds = time.perf_counter() - start
        plain = run_child("inference_time", model, images, runtime)["seconds"]
        rows[f"{PEERS[method].title} over forward passes"] = {
            "figure": seconds / plain,
            "seconds": seconds,
            "forward": plain,
        }
    return rows


def calibrate(*arguments: object) -> dict[str, Any]:
    """Runs a calibration in a process of its own, with an empty cache."""
    with tempfile.TemporaryDirectory() as cache:
        return run_child("calibration", *arguments, environment={"VITEDGE_CACHE": cache})


if __name__ == "__main__":
    main()
