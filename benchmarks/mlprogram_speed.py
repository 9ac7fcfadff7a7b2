# SPDX-License-Identifier: Apache-2.0
"""Measures the cost of computing a Core ML package on PyTorch: time against the PyTorch module's own, and memory.

``python -m benchmarks.mlprogram_speed`` from the root of the repository writes
``benchmarks/results/mlprogram_speed.json``. Weights are seeded, so that nothing is downloaded; the packages are fp32
and made in a temporary folder. A figure that misses its limit is written down like any other and ends the script with
exit code 1.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.child import run_child
from vitedge import registry
from vitedge.devices import machine

RESULTS = Path(__file__).with_name("results") / "mlprogram_speed.json"
MODELS = ("vit_small_patch16_224", "pit_s_224", "mobilevit_s")
TARGETS = ("iOS17", "iOS18")
ROUNDS = 25
LIMITS = {"time": 2.0, "memory": 1.5}
"""Median time of a program over that of the module; memory that a loaded program holds after it ran over the bytes of
its weights, of which a second copy would make 2."""


def main() -> None:
    """Measures everything and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    settings = parser.parse_args()
    rows = []
    for name in MODELS:
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = Path(folder) / f"{name}.pth"
            run_child("coreml_packages", name, checkpoint, *TARGETS)
            rows += [measure(name, checkpoint, target, settings.rounds) for target in TARGETS]
    missed = [f"{row['model']} {row['target']} {name}" for row in rows for name in LIMITS if row[name] > LIMITS[name]]
    report = {"provenance": provenance(settings.rounds), "bars": LIMITS, "rows": rows, "missed": missed}
    settings.out.write_text(json.dumps(report, indent=1) + "\n")
    for row in rows:
        print(
            f"{row['model']:24} {row['target']}  {row['operations']:4} operations  {row['time']:5.2f} x the module's"
            f" {row['module_ms']:6.1f} ms (limit {LIMITS['time']:g})  memory {row['memory']:4.2f} x the weights'"
            f" {row['weights'] / 1e6:5.1f} MB (limit {LIMITS['memory']:g})  {row['relative']:.1e} apart"
        )
    print(f"missed: {', '.join(missed) or 'nothing'}; {settings.out}")
    sys.exit(bool(missed))


def measure(name: str, checkpoint: Path, target: str, rounds: int) -> dict[str, Any]:
    """Time in turn with the module's, at batch 1, and memory in a process of its own."""
    package = checkpoint.with_name(f"{name}-{target}.mlpackage")
    weights = sum(file.stat().st_size for file in package.rglob("weight.bin"))
    timed = run_child("mlprogram_time", checkpoint, package, rounds)
    taken = run_child("mlprogram_memory", checkpoint, package)
    medians = {kind: statistics.median(times) for kind, times in timed["seconds"].items()}
    return {
        "model": name,
        "target": target,
        "time": medians["program"] / medians["module"],
        "module_ms": medians["module"] * 1e3,
        "program_ms": medians["program"] * 1e3,
        "memory": taken["held"] / weights,
        "weights": weights,
        "memory_bytes": taken,
        **timed,
    }


def provenance(rounds: int) -> dict[str, Any]:
    """Returns date, machine, versions and settings of the measurement."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "machine": machine.identity(),
        "versions": registry.environment(),
        "processor": platform.processor() or platform.machine(),
        "rounds": rounds,
        "seed": 0,
    }


if __name__ == "__main__":
    main()
