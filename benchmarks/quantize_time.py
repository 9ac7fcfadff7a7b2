# SPDX-License-Identifier: Apache-2.0
"""Measures what quantization costs whoever waits for it: whole processes, from checkpoint to saved file.

``python -m benchmarks.quantize_time`` from the root of the repository writes ``benchmarks/results/quantize_time.json``;
with names of models it measures those again. Every process is fresh, its imports count, and the processes of a model
run in turn. vitedge quantizes with an empty cache by ``vitedge quantize``; the peers export the checkpoint's model of
timm with ``torch.onnx.export`` and quantize what comes out, with their defaults, on the same 128 images. A figure that
misses its limit is written down like any other and ends the script with exit code 1.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import timm
import torch
from numpy.typing import NDArray

from benchmarks.child import ROOT
from benchmarks.quantization_models import SIX, provenance, settle
from benchmarks.quantization_peers import INPUT, PEERS
from benchmarks.sheet import Sheet, parser
from tests.seeding import seeded
from vitedge import registry
from vitedge.checkpoints.read import read
from vitedge.images.image_set import load
from vitedge.images.preprocess import normalize
from vitedge.images.synthetic import synthesize
from vitedge.models.reference import load_reference
from vitedge.parity.metrics import compare
from vitedge.quantization.file.model import read_model

RESULTS = Path(__file__).with_name("results") / "quantize_time.json"
MODELS = {
    "ViT-Ti": "vit_tiny_patch16_224",
    **{title: SIX[title] for title in ("ViT-S", "PiT-S", "MobileViT-S", "Swin-T")},
    "ViT-B": "vit_base_patch16_224",
}
IMAGES = 128
OTHERS = 32
SIDE = 256
ROUNDS = 2
NNCF = "nncf-openvino"
EXPORTS = ("export fp32", "export int8")
METHODS = ("default", NNCF, "quick", "static", *EXPORTS)
LIMITS = {"default": 1.5, "quick": 1.0}
"""CPU seconds over NNCF's."""
SMALLEST_QUICK = 1.2
"""The limit of ``quick`` on the smallest model, where importing PyTorch is a large part."""
EXPORT_LIMIT = 1.2
"""CPU seconds of an export in int8 over those of a quantization and an export in fp32 together."""


@dataclass(frozen=True)
class Row:
    """One method on one model."""

    model: str
    method: str
    wall_s: float
    """Median over the rounds."""
    cpu_s: float
    """Median over the rounds; of the process with its children."""
    peak_mb: float
    """Largest resident set."""
    centred_sqnr_db: float | None
    """Of the file in its runtime against the PyTorch model, on the images of the calibration; None where not asked."""
    others_db: float | None
    """The same on images that were not seen."""
    stages: Mapping[str, float]
    """Stage of ``vitedge quantize`` to its wall seconds."""
    rounds: int
    """How often the process ran."""


def main() -> None:
    asked = parser(__doc__, "MODEL", MODELS, RESULTS).parse_args()
    sheet = Sheet(
        asked.output,
        Row,
        lambda row: (list(MODELS).index(row.model), METHODS.index(row.method)),
        missed,
        {"provenance": provenance(calibration_images=IMAGES), "limits": LIMITS},
    )
    for title in asked.chosen:
        with tempfile.TemporaryDirectory() as name:
            for row in measure(title, Path(name)):
                print(f"{title:12} {row.method:14} {row.wall_s:6.1f} s  {row.cpu_s:6.1f} CPU s  {row.centred_sqnr_db}")
                sheet.put(row)
    sheet.finish()


def measure(title: str, folder: Path) -> Iterator[Row]:
    """All methods on one model, in turn."""
    module = write_inputs(MODELS[title], IMAGES, folder)
    spec = load_reference(read(str(folder / "checkpoint.pth"))).spec
    sets = [
        normalize(load(source, spec, count, seed).pixels, spec.preprocessing)
        for source, count, seed in ((str(folder / "images.npy"), IMAGES, 0), ("synthetic", OTHERS, 1))
    ]
    np.save(folder / "normalized.npy", sets[0])
    with torch.inference_mode():
        expected = [np.concatenate([module(part).numpy() for part in torch.from_numpy(one).split(8)]) for one in sets]
    runs: dict[str, list[Usage]] = {method: [] for method in METHODS}
    for _ in range(ROUNDS):
        for method in METHODS:
            runs[method].append(run(command(method, title, folder), folder))
    lowered = {method: _lowered(method, folder) for method in METHODS}
    for method, used in runs.items():
        found = [] if method in EXPORTS else [_outputs(*lowered[method], one) for one in sets]
        sqnr = [compare({"x": a}, {"x": b})[0].centred_sqnr_db for a, b in zip(expected, found, strict=False)]
        yield Row(
            title,
            method,
            wall_s=round(statistics.median(one.wall_s for one in used), 2),
            cpu_s=round(statistics.median(one.cpu_s for one in used), 2),
            peak_mb=round(max(one.peak_bytes for one in used) / 1e6),
            centred_sqnr_db=round(sqnr[0], 2) if sqnr else None,
            others_db=round(sqnr[1], 2) if sqnr else None,
            stages=_stages(folder / f"{method}.pt2"),
            rounds=len(used),
        )


def write_inputs(name: str, images: int, folder: Path) -> torch.nn.Module:
    """Writes ``checkpoint.pth``, of a model of timm with seeded weights, and ``images.npy``; returns the model."""
    module = seeded(timm.create_model(name))
    settle(module)
    torch.save({key: tensor.clone() for key, tensor in module.state_dict().items()}, folder / "checkpoint.pth")
    np.save(folder / "images.npy", synthesize(images, SIDE, SIDE, 0).transpose(0, 2, 3, 1))
    return module


def command(method: str, title: str, folder: Path) -> list[str]:
    """The process of a method."""
    checkpoint, images = str(folder / "checkpoint.pth"), str(folder / "images.npy")
    if method in LIMITS:
        out = str(folder / f"{method}.pt2")
        options = ["--images", images, "--effort", method, "--force"]
        return [sys.executable, "-m", "vitedge", "quantize", checkpoint, "-o", out, *options]
    if method in EXPORTS:
        precision = method.split()[1]
        options = ["--precision", precision, "--images", images, "--force", "--min-sqnr", "1"]
        return [sys.executable, "-m", "vitedge", "export", checkpoint, "-o", str(folder / precision), *options]
    module = "benchmarks.children.bare_peer"
    return [sys.executable, "-W", "ignore", "-m", module, MODELS[title], method, checkpoint, str(folder)]


@dataclass(frozen=True)
class Usage:
    """What a process used."""

    wall_s: float
    cpu_s: float
    peak_bytes: int


def run(arguments: Sequence[str], folder: Path) -> Usage:
    """Runs a process with an empty cache of calibrations.

    Raises:
        SystemExit: it failed.
    """
    with tempfile.TemporaryDirectory(dir=folder) as cache, (folder / "log").open("w+") as log:
        start = time.perf_counter()
        environment = {**os.environ, "VITEDGE_CACHE": cache}
        process = subprocess.Popen(arguments, stdout=log, stderr=log, cwd=ROOT, env=environment)
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        if status:
            log.seek(0)
            raise SystemExit(f"{' '.join(arguments)} failed:\n{log.read()[-2000:]}")
    return Usage(wall, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024)


def _lowered(method: str, folder: Path) -> tuple[Path, str]:
    """The file that a method's quantization runs as, and the name of its runtime."""
    if method in PEERS:
        return folder / f"{method}{PEERS[method].suffix}", PEERS[method].runtime
    if method in LIMITS:
        bundle = folder / f"bundle-{method}"
        arguments = ["export", str(folder / f"{method}.pt2"), "-o", str(bundle), "--min-sqnr", "1"]
        run([sys.executable, "-m", "vitedge", *arguments], folder)
        return bundle / "model.onnx", "onnxruntime"
    return folder / method.split()[1] / "model.onnx", "onnxruntime"


def _outputs(path: Path, runtime: str, images: NDArray[np.float32]) -> NDArray[np.float32]:
    with registry.load(registry.RUNTIMES, runtime).Runtime(path) as opened:
        (output,) = opened.outputs
        return np.concatenate([opened.run({INPUT: image[None]})[output.name] for image in images])


def _stages(path: Path) -> Mapping[str, float]:
    if not path.exists():
        return {}
    return {title: round(seconds, 2) for title, seconds in read_model(path).record.seconds.items()}


def missed(rows: Sequence[Row]) -> list[str]:
    """Returns the limits that our rows miss, each as a sentence."""
    found = {(row.model, row.method): row for row in rows}
    told = []
    for title in MODELS:
        peer = found.get((title, NNCF))
        for method, limit in LIMITS.items():
            row = found.get((title, method))
            if row is None or peer is None:
                continue
            most = SMALLEST_QUICK if (method, title) == ("quick", "ViT-Ti") else limit
            if row.cpu_s > most * peer.cpu_s:
                told.append(f"{title}: {method} takes {row.cpu_s / peer.cpu_s:.2f} x the CPU seconds of NNCF")
            if (row.centred_sqnr_db or 0) < (peer.centred_sqnr_db or 0):
                told.append(f"{title}: {method} is {row.centred_sqnr_db} dB, NNCF {peer.centred_sqnr_db}")
        told.extend(_missed_export(title, found))
    return told


def _missed_export(title: str, found: Mapping[tuple[str, str], Row]) -> Iterator[str]:
    parts = [found.get((title, method)) for method in ("export int8", "default", "export fp32")]
    if None not in parts:
        whole, *apart = (row.cpu_s for row in parts if row is not None)
        if whole > EXPORT_LIMIT * sum(apart):
            yield f"{title}: an int8 export takes {whole / sum(apart):.2f} x a quantization and an fp32 export"


if __name__ == "__main__":
    main()
