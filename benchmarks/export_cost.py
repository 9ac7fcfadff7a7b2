# SPDX-License-Identifier: Apache-2.0
"""What the tool itself costs: time of an export against a bare one, peak memory, time of ``--help`` and ``inspect``.

    python benchmarks/export_cost.py            writes benchmarks/results/export_cost.json
    python benchmarks/export_cost.py --quick    leaves out ViT-L and ViT-H, which take minutes and 16 GB of disk

Weights are seeded and the checkpoints are made in a temporary folder. Bars are those of the issue that asked for them;
a figure that misses its bar is written down like any other and ends the script with exit code 1.
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

from vitedge import registry
from vitedge.devices import machine

RESULTS = Path(__file__).parent / "results" / "export_cost.json"
TIMED = ("vit_small_patch16_224", "pit_s_224", "mobilevit_s", "swin_tiny_patch4_window7_224")
ROUNDS = 3
BARS = {
    "export_ratio": 1.5,
    "vit_large_memory_over_weights": 3.5,
    "vit_huge_memory_gb": 16.0,
    "help_s": 0.4,
    "inspect_s_beyond_torch": 2.0,
}

MAKE = """
import sys, timm, torch
torch.manual_seed(0)
model = timm.create_model(sys.argv[1], num_classes=1000)
torch.nn.init.trunc_normal_(model.get_classifier().weight, std=0.02)
torch.save({"model": model.state_dict()}, sys.argv[2])
"""

COMPARE = """
import json, sys, time, warnings
from pathlib import Path
import timm, torch
import vitedge
from vitedge.recipe import ExportRecipe
warnings.simplefilter("ignore")
name, checkpoint, folder, rounds = sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
size = timm.get_pretrained_cfg(name).input_size[1]
module = vitedge.load(checkpoint).module
image = torch.zeros(1, 3, size, size)
def bare(out):
    with torch.no_grad():
        torch.onnx.export(module, (image,), out, dynamo=True, verbose=False)
def ours(out):
    vitedge.export(checkpoint, out, ExportRecipe())
seconds = {"bare": [], "vitedge": []}
for turn in range(rounds + 1):  # the first of each warms up and is left out
    for kind, run, out in (("bare", bare, folder / f"{turn}.onnx"), ("vitedge", ours, folder / f"{turn}")):
        start = time.perf_counter()
        run(out)
        seconds[kind].append(time.perf_counter() - start)
print("RESULT", json.dumps({kind: times[1:] for kind, times in seconds.items()}))
"""


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
        print(f"{name:45} {row['figure']:8.2f}   bar {row['bar']:g}   {'MISSED' if name in missed else 'held'}")
    sys.exit(bool(missed))


def measure_time(folder: Path) -> dict[str, Any]:
    """Wall time of a whole verified export over that of a bare ``torch.onnx.export``, in turn in one process."""
    rows = {}
    for name in TIMED:
        checkpoint = make(name, folder)
        out = folder / f"{name}-out"
        out.mkdir()
        seconds = result_of([sys.executable, "-c", COMPARE, name, str(checkpoint), str(out), str(ROUNDS)])
        medians = {kind: statistics.median(times) for kind, times in seconds.items()}
        ratio = medians["vitedge"] / medians["bare"]
        rows[f"export_ratio {name}"] = {"figure": ratio, "bar": BARS["export_ratio"], "seconds": seconds}
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
        "help_s": {"figure": statistics.median(shown[1:]), "bar": BARS["help_s"], "seconds": shown[1:]},
        "inspect_s_beyond_torch": {
            "figure": statistics.median(beyond),
            "bar": BARS["inspect_s_beyond_torch"],
            "inspect_s": inspected[1:],
            "import_torch_s": imported[1:],
            "file_size": checkpoint.stat().st_size,
        },
    }


def measure_memory(folder: Path) -> dict[str, Any]:
    """Peak memory of the process of an export, its libraries included."""
    rows = {}
    for name, bar, over_weights in (
        ("vit_large_patch16_224", "vit_large_memory_over_weights", True),
        ("vit_huge_patch14_224", "vit_huge_memory_gb", False),
    ):
        checkpoint = make(name, folder)
        weights = checkpoint.stat().st_size
        start = time.perf_counter()
        peak = peak_memory([sys.executable, "-m", "vitedge", "export", str(checkpoint), "-o", str(folder / bar)])
        figure = peak / weights if over_weights else peak / 1e9
        seconds = time.perf_counter() - start
        rows[bar] = {"figure": figure, "bar": BARS[bar], "peak_bytes": peak, "weights": weights, "seconds": seconds}
        checkpoint.unlink()
    return rows


def make(name: str, folder: Path) -> Path:
    """A seeded checkpoint of a timm model."""
    path = folder / f"{name}.pth"
    subprocess.run([sys.executable, "-c", MAKE, name, str(path)], check=True)
    return path


def result_of(command: list[str]) -> dict[str, Any]:
    """What a process printed after the word RESULT."""
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    result: dict[str, Any] = json.loads(shown.rpartition("RESULT ")[2])
    return result


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
    """Where and with what it was measured."""
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
