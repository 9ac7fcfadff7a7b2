# SPDX-License-Identifier: Apache-2.0
"""Measures the error of int8 against the float model, beside other quantizers on the same models, images and machine.

``python -m benchmarks.quantization_quality`` from the root of the repository writes
``benchmarks/results/quantization_quality.json``; with names of models, or with ``--methods``, it measures those again
and keeps the other rows. Every method calibrates on the same 128 synthetic images and is evaluated by what its file
computes in its runtime against the PyTorch model: on those images, and on 32 others that none has seen. A figure that
misses its limit is written down like any other and ends the script with exit code 1. What quantizing takes is measured
by `benchmarks.quantize_time`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.quantization_models import (
    FACTOR,
    IMAGES,
    MODELS,
    SHARE,
    lower,
    provenance,
    write_checkpoint,
    write_images,
)
from benchmarks.quantization_peers import INPUT, PEERS, quantize
from benchmarks.sheet import Sheet, parser
from vitedge import registry
from vitedge.checkpoints.read import read
from vitedge.models.reference import load_reference
from vitedge.parity.metrics import compare

RESULTS = Path(__file__).with_name("results") / "quantization_quality.json"
OURS = "vitedge"
METHODS = (OURS, *PEERS)
OTHERS = 32
THREADS = 1
CONVOLUTIONAL = "MobileViT-S"
LIMITS = {"least_db": 20.0, "below_dynamic_db": 1.0, "above_nncf_db": 3.0}
"""Limits in dB of centred SQNR on the calibration images: at least so much on transformers, at most so much less than
ONNX Runtime's dynamic quantization without outliers, and at least so much more than NNCF on the convolutional model."""


@dataclass(frozen=True)
class Row:
    """One method on one model."""

    model: str
    outliers: bool
    method: str
    centred_sqnr_db: float
    """On the images of the calibration."""
    agreement: float
    others_db: float
    """On images that were not seen."""
    megabytes: float


def measure(title: str, methods: Sequence[str], *, outliers: bool) -> Iterator[Row]:
    """Every method on one model."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = write_checkpoint(title, folder, outliers=outliers)
        seen = write_images(checkpoint, folder / "seen.npy")
        sets = np.load(seen), np.load(write_images(checkpoint, folder / "other.npy", OTHERS, 1))
        module = load_reference(read(str(checkpoint))).module
        expected = [_reference(module, images) for images in sets]
        model = lower(checkpoint, folder / "fp32")
        for method in methods:
            ours = method == OURS
            path = lower(checkpoint, folder / OURS, "int8") if ours else quantize(method, model, seen, folder)
            runtime = "onnxruntime" if ours else PEERS[method].runtime
            found = [_outputs(path, runtime, images) for images in sets]
            parity = [compare({"logits": a}, {"logits": b})[0] for a, b in zip(expected, found, strict=True)]
            yield Row(
                model=title,
                outliers=outliers,
                method=method,
                centred_sqnr_db=round(parity[0].centred_sqnr_db, 2),
                agreement=round(parity[0].agreement or 0.0, 4),
                others_db=round(parity[1].centred_sqnr_db, 2),
                megabytes=round(size_of(path) / 1e6, 2),
            )


def size_of(path: Path) -> int:
    """Bytes of a model with the weights beside it."""
    return sum(file.stat().st_size for file in {path, path.with_suffix(".bin")} if file.is_file())


def _reference(module: torch.nn.Module, images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    with torch.inference_mode():
        return np.concatenate([module(part).numpy() for part in torch.from_numpy(images).split(16)])


def _outputs(path: Path, runtime: str, images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    with registry.load(registry.RUNTIMES, runtime).Runtime(path, threads=THREADS) as opened:
        (output,) = opened.outputs
        return np.concatenate([opened.run({INPUT: image[None]})[output.name] for image in images])


def missed(rows: Sequence[Row]) -> list[str]:
    """Returns the limits that our rows miss, each as a sentence."""
    figures = {(row.model, row.outliers, row.method): row.centred_sqnr_db for row in rows}
    found = []
    for (model, outliers, method), figure in figures.items():
        if method != OURS:
            continue
        for limit, why in _limits(model, figures, outliers=outliers):
            if figure < limit:
                kind = "with outliers" if outliers else "plain"
                found.append(f"{model} {kind}: {figure:.1f} dB, and {why} asks for {limit:.1f}")
    return found


def _limits(model: str, figures: dict[tuple[str, bool, str], float], *, outliers: bool) -> Iterator[tuple[float, str]]:
    nncf = [figure for method in PEERS if (figure := figures.get((model, outliers, method))) and "nncf" in method]
    above = LIMITS["above_nncf_db"] if model == CONVOLUTIONAL else 0.0
    if nncf:
        yield max(nncf) + above, "NNCF"
    if model == CONVOLUTIONAL:
        return
    yield LIMITS["least_db"], "the least"
    if not outliers and (model, False, "dynamic") in figures:
        yield figures[model, False, "dynamic"] - LIMITS["below_dynamic_db"], "dynamic quantization"


def main() -> None:
    arguments = parser(__doc__, "MODEL", MODELS, RESULTS)
    arguments.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    asked = arguments.parse_args()
    outliers = f"{SHARE:.0%} of the channels of LayerNorms that only Linears read, times {FACTOR:g}"
    told = provenance(outliers=outliers, seed=0, calibration_images=IMAGES, other_images=OTHERS, threads=THREADS)
    sheet = Sheet(asked.output, Row, _place, missed, {"provenance": told, "bars": LIMITS})
    for title in asked.chosen:
        for outliers in (False, True):
            for row in measure(title, asked.methods, outliers=outliers):
                print(*asdict(row).values(), flush=True)
                sheet.put(row)
    sheet.finish()


def _place(row: Row) -> tuple[int, bool, int]:
    return list(MODELS).index(row.model), row.outliers, METHODS.index(row.method)


if __name__ == "__main__":
    main()
