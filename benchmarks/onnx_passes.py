# SPDX-License-Identifier: Apache-2.0
"""What the passes over ONNX graphs leave and take: nodes, outputs, seconds and memory, beside those of another commit.

``python -m benchmarks.onnx_passes`` from the root of the repository writes ``benchmarks/results/onnx_passes.json``.
With ``--before TREE``, a checkout of another commit, that is measured too, in turn with this tree (A B A B), each time
in a process of its own; without it the figures of the other commit stay as they are in the file. Weights are seeded, so
that nothing is downloaded. What misses its limit is written down like any other figure and ends the script with exit
code 1.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch

import vitedge
from benchmarks.child import ROOT
from benchmarks.quantization_models import provenance
from benchmarks.sheet import Sheet, parser
from tests.seeding import seeded
from vitedge.files.plain import from_dict
from vitedge.recipe import ExportRecipe, Precision, QuantizationRecipe

RESULTS = Path(__file__).with_name("results") / "onnx_passes.json"
CHILD = ROOT / "benchmarks" / "children" / "onnx_lowering.py"
MODELS = {
    "ViT-Ti": "vit_tiny_patch16_224",
    "PiT-Ti": "pit_ti_224",
    "MobileViTv2-0.5": "mobilevitv2_050",
    "MobileViT-S": "mobilevit_s",
    "Swin-T": "swin_tiny_patch4_window7_224",
    "ViT-S": "vit_small_patch16_224",
}
"""Title to the name in timm, from the smallest to the largest."""
CASES: dict[str, tuple[str, str, str]] = {
    "ViT-Ti fp32": ("ViT-Ti", "fp32", "1"),
    "PiT-Ti fp32": ("PiT-Ti", "fp32", "1"),
    "MobileViTv2-0.5 fp32": ("MobileViTv2-0.5", "fp32", "1"),
    "MobileViT-S fp32": ("MobileViT-S", "fp32", "1"),
    "MobileViT-S fp16": ("MobileViT-S", "fp16", "1"),
    "MobileViT-S int8": ("MobileViT-S", "int8", "1"),
    "Swin-T fp32": ("Swin-T", "fp32", "1"),
    "Swin-T fp16": ("Swin-T", "fp16", "1"),
    "Swin-T fp32 dynamic": ("Swin-T", "fp32", "dynamic"),
    "Swin-T int8": ("Swin-T", "int8", "1"),
    "ViT-S fp32": ("ViT-S", "fp32", "1"),
    "ViT-S fp16": ("ViT-S", "fp16", "1"),
    "ViT-S int8": ("ViT-S", "int8", "1"),
}
"""Title of a row to the model, the precision and the batch."""
ROUNDS = 3
IMAGES = 16
"""Synthetic images that int8 is calibrated on; no accuracy is measured here."""
LIMITS = {"passes": 0.05, "peak memory": 1.05}
"""What the passes may take more than before, as a part of a whole lowering; and the largest resident set over that of
before. Of times the least of all turns counts, to which other work on the machine only adds."""


@dataclass(frozen=True)
class Figures:
    """What one tree makes of one model."""

    nodes: int
    optimized_nodes: int
    """Those that ONNX Runtime makes of them."""
    initializers: int
    size: int
    """Bytes of the file."""
    sha256: str
    outputs_sha256: str
    lower_s: tuple[float, ...]
    """Processor seconds of a whole lowering, of every turn."""
    passes_s: tuple[float, ...]
    """Those of the passes between the exporter's translation and the stamping of the opset."""
    peak_bytes: int


@dataclass(frozen=True)
class Row:
    """One model in one precision."""

    case: str
    before: Figures | None
    before_commit: str
    after: Figures


def main() -> None:
    asked = parser(__doc__, "CASE", CASES, RESULTS)
    asked.add_argument("--before", type=Path, help="a checkout of the commit to compare with")
    options = asked.parse_args()
    commit = "" if options.before is None else commit_of(options.before)
    known = rows_of(options.output)
    told = provenance(rounds=ROUNDS, time="processor seconds on one thread")
    sheet = Sheet(options.output, Row, _place, missed, {"provenance": told, "limits": LIMITS})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for case in options.chosen:
            source = source_of(case, folder)
            trees = [ROOT] if options.before is None else [options.before.resolve(), ROOT]
            found = [merged(runs) for runs in interleaved(trees, source, case, folder)]
            last = known.get(case)
            before = found[0] if commit else None if last is None else last.before
            row = Row(case, before, commit or ("" if last is None else last.before_commit), found[-1])
            sheet.put(row)
            print(shown(row), flush=True)
    sheet.finish()


def source_of(case: str, folder: Path) -> Path:
    """A seeded checkpoint, or the quantized program of it."""
    title, precision, _ = CASES[case]
    checkpoint, quantized = folder / f"{title}.pth", folder / f"{title}.pt2"
    if not checkpoint.exists():
        module = seeded(timm.create_model(MODELS[title]))
        torch.save({name: tensor.clone() for name, tensor in module.state_dict().items()}, checkpoint)
    if precision != "int8":
        return checkpoint
    recipe = QuantizationRecipe(Precision.INT8, images="synthetic", image_count=IMAGES)
    vitedge.quantize(str(checkpoint), quantized, ExportRecipe(quantization=recipe), force=True)
    return quantized


def interleaved(trees: Sequence[Path], source: Path, case: str, folder: Path) -> list[list[dict[str, Any]]]:
    """The figures of every run of every tree, which take turns."""
    runs: list[list[dict[str, Any]]] = [[] for _ in trees]
    for _ in range(ROUNDS):
        for tree, found in zip(trees, runs, strict=True):
            command = [sys.executable, str(CHILD), str(source), *CASES[case][1:], str(folder / "model.onnx")]
            environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
            done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment, cwd=folder)
            found.append(json.loads(done.stdout.rpartition("RESULT ")[2]))
    return runs


def merged(runs: Sequence[dict[str, Any]]) -> Figures:
    """One tree's figures: the times of all runs, and of the rest what is the same in each.

    Raises:
        RuntimeError: two runs wrote different files.
    """
    if len({run["sha256"] for run in runs}) != 1:
        raise RuntimeError("two lowerings of one model differ")
    times = {name: [seconds for run in runs for seconds in run[name]] for name in ("lower_s", "passes_s")}
    return from_dict(Figures, {**runs[0], **times, "peak_bytes": max(run["peak_bytes"] for run in runs)})


def missed(rows: Sequence[Row]) -> list[str]:
    """Returns what is worse than before, beyond the limits."""
    return [f"{row.case}: {text}" for row in rows if row.before is not None for text in _worse(row.before, row.after)]


def _worse(before: Figures, after: Figures) -> list[str]:
    counts = ("nodes", "optimized_nodes", "initializers")
    more = [name for name in counts if getattr(after, name) > getattr(before, name)]
    found = [f"{getattr(after, name)} {name} where there were {getattr(before, name)}" for name in more]
    if after.outputs_sha256 != before.outputs_sha256:
        found.append("other outputs")
    figures = {
        "passes": (min(after.passes_s) - min(before.passes_s)) / min(before.lower_s),
        "peak memory": after.peak_bytes / before.peak_bytes,
    }
    return found + [f"{name} {figure:.2f}" for name, figure in figures.items() if figure > LIMITS[name]]


def shown(row: Row) -> str:
    """A row as a line."""
    columns = [row.case.ljust(22)]
    for figures in (row.before, row.after):
        if figures is not None:
            lower, passes = min(figures.lower_s), min(figures.passes_s)
            told = f"{figures.nodes} nodes ({figures.optimized_nodes}), {lower:.2f} s, passes {passes * 1e3:.0f} ms"
            columns.append(f"{told}, {figures.peak_bytes / 1e6:.0f} MB")
    if row.before is not None:
        columns.append("same bytes" if row.before.sha256 == row.after.sha256 else "other bytes")
    return "   ".join(columns)


def rows_of(path: Path) -> dict[str, Row]:
    """The rows that a file holds, by their case."""
    kept = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    return {row.case: row for row in (from_dict(Row, content) for content in kept)}


def commit_of(tree: Path) -> str:
    """The commit that a tree is a checkout of."""
    command = ["git", "-C", str(tree), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _place(row: Row) -> int:
    return list(CASES).index(row.case)


if __name__ == "__main__":
    main()
