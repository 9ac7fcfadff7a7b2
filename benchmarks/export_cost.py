# SPDX-License-Identifier: Apache-2.0
"""Measures the tool itself: time of an export against a bare one, peak memory, time of ``--help`` and ``inspect``.

    python -m benchmarks.export_cost            writes benchmarks/results/export_cost.json
    python -m benchmarks.export_cost --quick    leaves out ViT-L and ViT-H, which take minutes and 16 GB of disk

Weights are seeded and the checkpoints are made in a temporary folder. The limits come from the issue that asked for
them; a figure that misses its limit is written down like any other and ends the script with exit code 1.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.child import run_child
from vitedge import registry
from vitedge.devices import machine

RESULTS = Path(__file__).parent / "results" / "export_cost.json"
TIMED = ("vit_small_patch16_224", "pit_s_224", "mobilevit_s", "swin_tiny_patch4_window7_224")
ROUNDS = 3
LIMITS = {
    "export_ratio": 1.5,
    "vit_large_memory_over_weights": 3.5,
    "vit_huge_memory_gb": 16.0,
    "help_s": 0.4,
    "inspect_s_beyond_torch": 2.0,
}


def main() -> None:
    """Measures everything and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    with tempfile.TemporaryDirectory() as folder:
        rows = {**measure_time(Path(folder)), **measure_start(Path(folder))}
        if not quick:
            rows.update(measure_memory(Path(folder)))
    missed = [name for name, row in rows.items() if row["figure"] > row["bar"]]
    RESULTS.write_text(json.dumps({"provenance": provenance(), "rows": rows, "missed": missed}, indent=1) + "\n")
    for name, row in rows.items():
        print(f"{name:45} {row['figure']:8.2f}   limit {row['bar']:g}   {'MISSED' if name in missed else ''}")
    sys.exit(bool(missed))


def measure_time(folder: Path) -> dict[str, Any]:
    """Wall time of a whole verified export over that of a bare ``torch.onnx.export``, in turn in one process."""
    rows = {}
    for name in TIMED:
        checkpoint = make(name, folder)
        out = folder / f"{name}-out"
        out.mkdir()
        seconds = run_child("export_time", name, checkpoint, out, ROUNDS)
        medians = {kind: statistics.median(times) for kind, times in seconds.items()}
        ratio = medians["vitedge"] / medians["bare"]
        rows[f"export_ratio {name}"] = {"figure": ratio, "bar": LIMITS["export_ratio"], "seconds": seconds}
    return rows


def measure_start(folder: Path) -> dict[str, Any]:
    """Wall time of ``--help``, and of ``inspect`` on 346 MB beyond the import of PyTorch; the median of five."""
    checkpoint = make("vit_base_patch16_224", folder)
    vitedge = [sys.executable, "-m", "vitedge"]
    shown, imported, inspected = [], [], []
    for _ in range(6):
        shown.append(wall([*vitedge, "--help"]))
        imported.append(wall([sys.executable, "-c", "import torch"]))
        inspected.append(wall([*vitedge, "inspect", str(checkpoint)]))
    beyond = [whole - torch for whole, torch in zip(inspected[1:], imported[1:], strict=True)]
    return {
        "help_s": {"figure": statistics.median(shown[1:]), "bar": LIMITS["help_s"], "seconds": shown[1:]},
        "inspect_s_beyond_torch": {
            "figure": statistics.median(beyond),
            "bar": LIMITS["inspect_s_beyond_torch"],
            "inspect_s": inspected[1:],
            "import_torch_s": imported[1:],
            "file_size": checkpoint.stat().st_size,
        },
    }


def measure_memory(folder: Path) -> dict[str, Any]:
    """Peak memory of the process of an export, its libraries included."""
    rows = {}
    for name, row, over_weights in (
        ("vit_large_patch16_224", "vit_large_memory_over_weights", True),
        ("vit_huge_patch14_224", "vit_huge_memory_gb", False),
    ):
        checkpoint = make(name, folder)
        weights = checkpoint.stat().st_size
        start = time.perf_counter()
        peak = peak_memory([sys.executable, "-m", "vitedge", "export", str(checkpoint), "-o", str(folder / row)])
        figure = peak / weights if over_weights else peak / 1e9
        seconds = time.perf_counter() - start
        rows[row] = {"figure": figure, "bar": LIMITS[row], "peak_bytes": peak, "weights": weights, "seconds": seconds}
        checkpoint.unlink()
    return rows


def make(name: str, folder: Path) -> Path:
    """A seeded checkpoint of a timm model."""
    path = folder / f"{name}.pth"
    run_child("seeded_checkpoint", name, path)
    return path


def wall(command: list[str]) -> float:
    """Seconds that a process takes."""
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def peak_memory(command: list[str]) -> int:
    """Largest resident set of a process in bytes, as the kernel accounts it (``VmHWM``)."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            break
        peaks = [int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM")]
        peak = max([peak, *peaks])
        time.sleep(0.05)
    if process.wait() != 0:
        raise SystemExit(f"{' '.join(command)} failed")
    return peak


def provenance() -> dict[str, Any]:
    """Returns date, machine, versions and settings of the measurement."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "machine": machine.identity(),
        "versions": registry.environment(),
        "processor": platform.processor() or platform.machine(),
        "rounds": ROUNDS,
        "seed": 0,
    }


if __name__ == "__main__":
    main()
