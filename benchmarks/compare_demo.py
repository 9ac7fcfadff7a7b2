# SPDX-License-Identifier: Apache-2.0
"""Compares the demo's models three times each, and tells whether the recommendations agree and can be made again.

``python -m benchmarks.compare_demo`` from the root of the repository writes ``benchmarks/results/compare_demo.json``;
with names of models it runs those again and keeps the other rows. Each run is a process of its own, `vitedge compare`
with an empty cache; the command that it ends with is run after the first, and its files are compared byte by byte. What
is missed is written down like any other figure and ends the script with exit code 1.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.export_cost import provenance
from benchmarks.sheet import Sheet, parser
from vitedge.demo.assets import IMAGES, MODELS, DemoModel
from vitedge.files.bundle import read_manifest
from vitedge.recipe import ExportRecipe
from vitedge.verbs.export_command import options

RESULTS = Path(__file__).with_name("results") / "compare_demo.json"
RUNS = 3


@dataclass(frozen=True)
class Tried:
    """One candidate of one run."""

    name: str
    outcome: str
    kilobytes: float
    low_ms: float
    median_ms: float
    high_ms: float
    centred_sqnr_db: float
    top1: float
    seconds: float
    """Wall time of making and checking it."""


@dataclass(frozen=True)
class Row:
    """One run of one model."""

    model: str
    run: int
    recommended: str
    why: str
    candidates: tuple[Tried, ...]
    ratios: tuple[tuple[str, str, float, float, float, str], ...]
    """Subject, baseline, ratio, its interval, and what it says."""
    seconds: float
    """Wall time of the whole process."""
    load: float
    """Processes that wanted to run on the machine in the minute before."""
    same_bytes: bool | None
    """Whether the command of the recommended one gave the bytes of the bundle that was kept; None of later runs."""


def measure(model: DemoModel, run: int, folder: Path) -> Row:
    """Runs one comparison."""
    load = os.getloadavg()[0]
    environment = {**os.environ, "VITEDGE_CACHE": str(folder / "cache")}
    facts = [*options(ExportRecipe(overrides=dict(model.overrides)))]
    kept = folder / "kept"
    words = [str(model.path), "--images", str(IMAGES), "--eval", str(IMAGES), *facts, "-o", str(kept), "--json"]
    start = time.perf_counter()
    done = _vitedge(["compare", *words], environment)
    seconds = time.perf_counter() - start
    found = json.loads(done.stdout)
    return Row(
        model=model.name,
        run=run,
        recommended=found["recommended"],
        why=found["why"],
        candidates=tuple(_tried(one) for one in found["candidates"]),
        ratios=tuple(
            (
                one["subject"],
                one["baseline"],
                *(round(one[name], 3) for name in ("ratio", "low", "high")),
                one["verdict"],
            )
            for one in found["ratios"]
        ),
        seconds=round(seconds, 1),
        load=round(load, 1),
        same_bytes=None if run else _same_bytes(found["command"], kept, environment),
    )


def _tried(found: dict[str, Any]) -> Tried:
    low, middle, high = found["latency"]["typical_ms"]
    return Tried(
        name=found["name"],
        outcome=found["outcome"],
        kilobytes=round(found["artifact"]["size"] / 1e3, 1),
        low_ms=round(low, 4),
        median_ms=round(middle, 4),
        high_ms=round(high, 4),
        centred_sqnr_db=round(found["parity"][0]["outputs"][0]["centred_sqnr_db"], 1),
        top1=round(found["accuracy"]["top1"]["share"], 4),
        seconds=round(found["seconds"], 1),
    )


def _same_bytes(command: str, kept: Path, environment: dict[str, str]) -> bool:
    """Runs the command of the recommended bundle, and compares the hashes of all artifacts."""
    again = kept.with_name("again")
    program, *words = shlex.split(command)
    _vitedge([str(again) if word == "BUNDLE" else word for word in words], environment)
    hashes = [[one.sha256 for one in read_manifest(bundle).artifacts] for bundle in (kept, again)]
    return program == "vitedge" and hashes[0] == hashes[1]


def _vitedge(words: Sequence[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vitedge", *words]
    return subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)


def missed(rows: Sequence[Row]) -> list[str]:
    """Returns what disagrees, each as a sentence."""
    found = []
    for model in dict.fromkeys(row.model for row in rows):
        chosen = [row.recommended for row in rows if row.model == model]
        if len(set(chosen)) > 1 or len(chosen) < RUNS:
            found.append(f"{model}: {len(chosen)} of {RUNS} runs recommend {' and '.join(dict.fromkeys(chosen))}")
    return found + [f"{row.model}: the command gives other bytes" for row in rows if row.same_bytes is False]


def main() -> None:
    asked = parser(__doc__, "MODEL", [model.name for model in MODELS], RESULTS).parse_args()
    head = {"provenance": provenance(), "runs": RUNS}
    sheet = Sheet(asked.output, Row, lambda row: (_names().index(row.model), row.run), missed, head)
    for model in MODELS:
        for run in range(RUNS) if model.name in asked.chosen else ():
            with tempfile.TemporaryDirectory() as folder:
                row = measure(model, run, Path(folder))
            print(row.model, row.run, row.recommended, row.why, row.seconds, row.load, row.same_bytes, flush=True)
            sheet.put(row)
    sheet.finish()


def _names() -> list[str]:
    return [model.name for model in MODELS]


if __name__ == "__main__":
    main()
