# SPDX-License-Identifier: Apache-2.0
"""What it costs to compute a Core ML package on PyTorch: time against the PyTorch module's own, and memory.

``python -m benchmarks.mlprogram_speed`` from the root of the repository writes
``benchmarks/results/mlprogram_speed.json``. Weights are seeded, so that nothing is downloaded; the packages are fp32
and made in a temporary folder. A figure that misses its bar is written down like any other and ends the script with
exit code 1.
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
from pathlib import Path
from typing import Any

from vitedge.devices import machine
from vitedge.files.bundle import versions

RESULTS = Path(__file__).with_name("results") / "mlprogram_speed.json"
MODELS = ("vit_small_patch16_224", "pit_s_224", "mobilevit_s")
TARGETS = ("iOS17", "iOS18")
ROUNDS = 25
BARS = {"time": 2.0, "memory": 1.5}
"""Median time of a program over that of the module; memory that a loaded program holds after it ran over the bytes of
its weights, of which a second copy would make 2."""

MAKE = """
import sys, timm, torch, warnings
from pathlib import Path
import vitedge
from vitedge.program.capture import capture
from vitedge.export.to_coreml import lower
from vitedge.recipe import ResolvedRecipe
warnings.simplefilter("ignore")
name, checkpoint, targets = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
torch.manual_seed(0)
model = timm.create_model(name, num_classes=1000)
torch.nn.init.trunc_normal_(model.get_classifier().weight, std=0.02)
torch.save({"model": model.state_dict()}, checkpoint)
reference = vitedge.load(str(checkpoint))
program = capture(reference.module, reference.spec, reference.blocks)
for target in targets:
    recipe = ResolvedRecipe(formats=("coreml",), coreml_target=target)
    lower(program, recipe, checkpoint.with_name(f"{name}-{target}.mlpackage"), ())
"""

COMPARE = """
import json, sys, time
import numpy as np, torch
import vitedge
from vitedge.runtimes.mlprogram import Runtime
checkpoint, package, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
module = vitedge.load(checkpoint).module
with Runtime(package) as runtime, torch.inference_mode():
    (given,), (made,) = runtime.inputs, runtime.outputs
    image = np.random.default_rng(0).normal(size=given.shape).astype(np.float32)
    tensor = torch.from_numpy(image)
    seconds = {"module": [], "program": []}
    results = {}
    for turn in range(rounds + 3):  # the first three of each warm up and are left out
        for kind, run in (
            ("module", lambda: module(tensor).numpy()), ("program", lambda: runtime.run({given.name: image})[made.name])
        ):
            start = time.perf_counter()
            results[kind] = run()
            seconds[kind].append(time.perf_counter() - start)
    apart = float(np.abs(results["program"] - results["module"]).max() / np.abs(results["module"]).max())
    steps = len(runtime._interpreter._steps)
print("RESULT", json.dumps({
    "seconds": {kind: times[3:] for kind, times in seconds.items()},
    "relative": apart, "operations": steps, "threads": torch.get_num_threads(),
}))
"""

MEMORY = """
import ctypes, gc, json, sys
from pathlib import Path
import numpy as np
import torch
import vitedge
from vitedge.runtimes.mlprogram import Runtime

def status(field):
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what is freed goes back, so that only what is held is counted
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

def copied(weights):
    # Pages of the weights' file that were written to, and so are in memory a second time.
    ours, total = False, 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            ours = line.endswith(str(weights))
        elif ours and line.startswith("Anonymous:"):
            total += int(line.split()[1]) * 1024
    return total

checkpoint, package = sys.argv[1], Path(sys.argv[2])
with Runtime(package) as runtime:  # what the libraries take by themselves, and keep
    (given,) = runtime.inputs
    image = np.random.default_rng(0).normal(size=given.shape).astype(np.float32)
    runtime.run({given.name: image})
del runtime
before = status("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
with Runtime(package) as runtime:
    loaded = status("VmRSS") - before
    for _ in range(2):
        runtime.run({given.name: image})
    peak = status("VmHWM") - before
    held = status("VmRSS") - before
    written = copied(next(package.resolve().rglob("weight.bin")))
del runtime
reference = vitedge.load(checkpoint)
before = status("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
with torch.inference_mode():
    reference.module(torch.from_numpy(image))
activations = status("VmHWM") - before
print("RESULT", json.dumps(
    {"loaded": loaded, "held": held, "written": written, "peak": peak, "module_activations": activations}
))
"""


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
            process(MAKE, name, str(checkpoint), *TARGETS)
            rows += [measure(name, checkpoint, target, settings.rounds) for target in TARGETS]
    missed = [f"{row['model']} {row['target']} {bar}" for row in rows for bar in BARS if row[bar] > BARS[bar]]
    report = {"provenance": provenance(settings.rounds), "bars": BARS, "rows": rows, "missed": missed}
    settings.out.write_text(json.dumps(report, indent=1) + "\n")
    for row in rows:
        print(
            f"{row['model']:24} {row['target']}  {row['operations']:4} operations  {row['time']:5.2f} x the module's"
            f" {row['module_ms']:6.1f} ms (bar {BARS['time']:g})  memory {row['memory']:4.2f} x the weights'"
            f" {row['weights'] / 1e6:5.1f} MB (bar {BARS['memory']:g})  {row['relative']:.1e} apart"
        )
    print(f"missed: {', '.join(missed) or 'nothing'}; {settings.out}")
    sys.exit(bool(missed))


def measure(name: str, checkpoint: Path, target: str, rounds: int) -> dict[str, Any]:
    """Time in turn with the module's, at batch 1, and memory in a process of its own."""
    package = checkpoint.with_name(f"{name}-{target}.mlpackage")
    weights = sum(file.stat().st_size for file in package.rglob("weight.bin"))
    timed = process(COMPARE, str(checkpoint), str(package), str(rounds))
    taken = process(MEMORY, str(checkpoint), str(package))
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


def process(code: str, *arguments: str) -> dict[str, Any]:
    """Runs code in a process of its own; what it printed after the word RESULT."""
    command = [sys.executable, "-c", code, *arguments]
    shown = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    result: dict[str, Any] = json.loads(shown.rpartition("RESULT ")[2] or "{}")
    return result


def provenance(rounds: int) -> dict[str, Any]:
    """Where and with what it was measured."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "machine": machine.identity(),
        "versions": versions(),
        "processor": platform.processor() or platform.machine(),
        "rounds": rounds,
        "seed": 0,
    }


if __name__ == "__main__":
    main()
