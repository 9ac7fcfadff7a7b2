# SPDX-License-Identifier: Apache-2.0
"""Time and memory of pruning a ViT-B with its refit, as a user waits for it: ``python -m benchmarks.pruning_cost``."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import timm
from safetensors.torch import save_file

from benchmarks.export_cost import provenance
from tests.seeding import seeded

RESULTS = Path(__file__).parent / "results" / "pruning_cost.json"
MODEL = "vit_base_patch16_224"
OPTIONS = ("--heads", "0.75", "--mlp", "0.75", "--images", "synthetic", "--image-count", "256", "--accept-assumptions")


def main() -> None:
    """Runs the command in a process of its own, and writes the result."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "model.safetensors"
        state = seeded(timm.create_model(MODEL)).state_dict()
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, source)
        command = [sys.executable, "-m", "vitedge", "prune", str(source), "-o", str(Path(folder) / "out.safetensors")]
        start = time.perf_counter()
        subprocess.run([*command, *OPTIONS], check=True)
        wall = time.perf_counter() - start
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    row = {
        "model": MODEL,
        "options": " ".join(OPTIONS),
        "wall_s": round(wall),
        "cpu_s": round(used.ru_utime + used.ru_stime),
        "peak_gb": round(used.ru_maxrss / 1e6, 2),
    }
    RESULTS.write_text(json.dumps({"provenance": provenance(), "rows": [row]}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
