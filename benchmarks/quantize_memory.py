# SPDX-License-Identifier: Apache-2.0
"""Measures the largest memory of quantizing a large model on many images.

``python -m benchmarks.quantize_memory`` from the root of the repository writes
``benchmarks/results/quantize_memory.json``. `vitedge quantize` is a process of its own with an empty cache; a figure
that misses its limit is written down like any other and ends the script with exit code 1.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.quantization_models import provenance
from benchmarks.quantize_time import run, write_inputs
from benchmarks.sheet import Sheet, parser

RESULTS = Path(__file__).with_name("results") / "quantize_memory.json"
MODELS = {"ViT-B": "vit_base_patch16_224", "ViT-L": "vit_large_patch16_224"}
IMAGES = 512
LIMIT_MB = 8000.0


@dataclass(frozen=True)
class Row:
    """One model."""

    model: str
    weights_mb: float
    """Of the checkpoint, in float32."""
    peak_mb: float
    """Largest resident set of the process."""
    wall_s: float
    cpu_s: float


def main() -> None:
    asked = parser(__doc__, "MODEL", MODELS, RESULTS).parse_args()
    sheet = Sheet(
        asked.output,
        Row,
        lambda row: list(MODELS).index(row.model),
        missed,
        {"provenance": provenance(calibration_images=IMAGES), "limits": {"peak_mb": LIMIT_MB}},
    )
    for title in asked.chosen:
        row = measure(title)
        print(f"{title}: {row.peak_mb:.0f} MB, {row.wall_s:.0f} s, {row.cpu_s:.0f} CPU s", flush=True)
        sheet.put(row)
    sheet.finish()


def measure(title: str) -> Row:
    """One model of seeded weights, on synthetic images."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint, images = folder / "checkpoint.pth", folder / "images.npy"
        write_inputs(MODELS[title], IMAGES, folder)
        size = checkpoint.stat().st_size
        options = ["--images", str(images), "--image-count", str(IMAGES)]
        used = run(
            [sys.executable, "-m", "vitedge", "quantize", str(checkpoint), "-o", str(folder / "int8.pt2"), *options],
            folder,
        )
    return Row(title, round(size / 1e6), round(used.peak_bytes / 1e6), round(used.wall_s), round(used.cpu_s))


def missed(rows: Sequence[Row]) -> list[str]:
    """Returns the models that take more than the limit, each as a sentence."""
    return [f"{row.model}: {row.peak_mb:.0f} MB" for row in rows if row.peak_mb > LIMIT_MB]


if __name__ == "__main__":
    main()
