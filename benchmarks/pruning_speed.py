# SPDX-License-Identifier: Apache-2.0
"""Time of pruned models beside dense ones in ONNX Runtime on two threads: ``python -m benchmarks.pruning_speed``.

Weights are seeded, so only times are looked at: nothing is refitted. Each row is a run of its own in which the dense
and the pruned file take turns. Names of models as arguments measure these alone; other rows stay.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import timm
from safetensors.torch import save_file

import vitedge
from benchmarks.export_cost import provenance
from tests.seeding import seeded
from vitedge.devices.session import connect
from vitedge.latency.interleave import measure_in_turn
from vitedge.latency.model import MeasuredModel
from vitedge.latency.sampling import Rule
from vitedge.pruning.recipe import PruningRecipe
from vitedge.recipe import ExportRecipe, QuantizationRecipe
from vitedge.records import Tolerance

RESULTS = Path(__file__).parent / "results" / "pruning_speed.json"
THREADS = 2
RULE = Rule(warmup_s=1.0, warmup_limit_s=3.0, samples=100, seconds=8.0, rounds=20)
MODELS: Mapping[str, str] = {
    "ViT-S": "vit_small_patch16_224",
    "PiT-S": "pit_s_224",
    "MobileViT-S": "mobilevit_s",
    "Swin-T": "swin_tiny_patch4_window7_224",
}
RECIPES: Mapping[str, Mapping[str, Any]] = {
    "macs 0.6": {"macs": 0.6},
    "latency 0.7": {"latency": 0.7},
    "merge 13": {"merge": 13},
}
ONLY = {"merge 13": ("ViT-S",)}


def exported(source: Path, out: Path, precision: str) -> Path:
    """Exports a model to ONNX and returns the file."""
    quantization = QuantizationRecipe(images="synthetic", image_count=8) if precision == "int8" else None
    recipe = ExportRecipe(
        precision=precision,
        image_count=4,
        quantization=quantization,
        accept_assumptions=True,
        tolerance=Tolerance(centred_sqnr_db=-100.0),  # seeded weights are no model whose accuracy could be looked at
    )
    vitedge.export(source, out, recipe, force=True)
    return out / "model.onnx"


def ratio(dense: Path, pruned: Path) -> dict[str, Any]:
    """Returns the time of a pruned file relative to the dense one's, measured in turn."""
    models = [
        MeasuredModel(name, "onnxruntime", str(path), threads=THREADS)
        for name, path in (("dense", dense), ("pruned", pruned))
    ]
    with connect("local") as session:
        report = measure_in_turn(models, session, RULE)
    found = report.ratios[0]
    return {
        "ratio": round(found.ratio, 3),
        "interval": [round(found.low, 3), round(found.high, 3)],
        "dense_ms": round(report.reports[0].quantiles.median, 2),
        "pruned_ms": round(report.reports[1].quantiles.median, 2),
    }


def rows(name: str, folder: Path) -> Iterator[dict[str, Any]]:
    """Yields the rows of one model."""
    source = folder / f"{MODELS[name]}.safetensors"
    save_file(
        {key: value.contiguous() for key, value in seeded(timm.create_model(MODELS[name])).state_dict().items()}, source
    )
    dense = {precision: exported(source, folder / f"dense-{precision}", precision) for precision in ("fp32", "int8")}
    for title, entries in RECIPES.items():
        if name not in ONLY.get(title, MODELS):
            continue
        recipe = PruningRecipe(
            **entries, images="synthetic", image_count=8, criterion="magnitude", repair=False, accept_assumptions=True
        )
        done = vitedge.prune(source, folder / "pruned.safetensors", recipe, force=True)
        for precision, baseline in dense.items():
            pruned = exported(Path(done.path), folder / "pruned", precision)
            macs = round(done.record.gmacs[1] / done.record.gmacs[0], 3)
            yield {"model": name, "recipe": title, "precision": precision, "macs": macs, **ratio(baseline, pruned)}


def main() -> None:
    """Writes the result."""
    old = json.loads(RESULTS.read_text(encoding="utf-8"))["rows"] if RESULTS.exists() else []
    wanted = sys.argv[1:] or list(MODELS)
    found = [row for row in old if row["model"] not in wanted]
    for name in wanted:
        with tempfile.TemporaryDirectory() as folder:
            for one in rows(name, Path(folder)):
                print(json.dumps(one), flush=True)
                found.append(one)
        content = {"provenance": provenance(), "threads": THREADS, "rows": found}
        RESULTS.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
