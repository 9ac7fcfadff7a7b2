# SPDX-License-Identifier: Apache-2.0
"""Writes tables of committed results into the pages of docs/: ``make docs``.

A table named NAME stands between ``<!-- table: NAME -->`` and ``<!-- /table -->``, and is drawn from
``benchmarks/results/NAME.json``. It stays empty until that result is committed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGES = sorted((ROOT / "docs").glob("*.md"))
PLACE = re.compile(r"(<!-- table: (\w+) -->\n).*?(?=<!-- /table -->)", re.S)
_LONGEST = 90
"""Characters of what a library said."""
TITLES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
Row = Mapping[str, Any]


def filled(text: str, results: Path = RESULTS) -> str:
    """Returns the page with every table drawn from its result."""

    def draw(match: re.Match[str]) -> str:
        path = results / f"{match[2]}.json"
        if not path.exists():
            return match[1]
        lines = TABLES[match[2]](json.loads(path.read_text(encoding="utf-8"))["rows"])
        return "\n".join([match[1], *lines, "\n"])

    return PLACE.sub(draw, text)


def images_lost(rows: Sequence[Row], name: Callable[[Row], str]) -> Iterator[str]:
    """Yields a line for each recipe, with the images that each model lost by it."""
    models = list(dict.fromkeys(row["model"] for row in rows))
    yield from _head(["", *models])
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        found.setdefault(name(row), {})[row["model"]] = _loss(row)
    for title, cells in found.items():
        yield f"| {title} | {' | '.join(cells.get(model, '') for model in models)} |"


def _loss(row: Row) -> str:
    if "failed" in row:
        return "not possible"
    if "lost" not in row:
        return f"{row['right']} right"
    macs = f", {row['macs']:.2f} of the MACs" if "macs" in row else ""
    return f"{row['lost']} ({row['sqnr_db']:.1f} dB{macs})"


def _comparisons(rows: Sequence[Row]) -> Iterator[str]:
    """Yields a line for each run of each model, with the times of its candidates and what was recommended."""
    names = [one["name"] for one in rows[0]["candidates"]]
    yield from _head(["", *names, "recommended"])
    for row in rows:
        shown = (
            f"{one['median_ms']:.3f} ms ({one['low_ms']:.3f} to {one['high_ms']:.3f})" for one in row["candidates"]
        )
        yield f"| {row['model']}, run {row['run'] + 1} | {' | '.join(shown)} | {row['recommended']} |"


def _quantizers(rows: Sequence[Row]) -> Iterator[str]:
    """Yields a line for each model, with the seconds and the exactness of every quantizer."""
    methods = {
        "default": "`vitedge quantize`",
        "quick": "`--effort quick`",
        "nncf-openvino": "NNCF",
        "static": "ONNX Runtime's static tool",
    }
    yield from _head(["", *methods.values()])
    models = dict.fromkeys(row["model"] for row in rows)
    for model in models:
        found = {row["method"]: row for row in rows if row["model"] == model}
        shown = (
            f"{found[one]['cpu_s']:.0f} CPU s, {found[one]['wall_s']:.0f} s, {found[one]['centred_sqnr_db']:.1f} dB"
            for one in methods
        )
        yield f"| {model} | {' | '.join(shown)} |"


def _times(rows: Sequence[Row]) -> Iterator[str]:
    """Yields a line for each model and recipe, with the time relative to the dense file of the same precision."""
    precisions = list(dict.fromkeys(row["precision"] for row in rows))
    yield from _head(["", "", "MACs", *precisions])
    found: dict[tuple[str, str, float], dict[str, str]] = {}
    for row in rows:
        low, high = row["interval"]
        time = f"{row['ratio']:.2f} x ({low:.2f} to {high:.2f})"
        found.setdefault((row["model"], row["recipe"], row["macs"]), {})[row["precision"]] = time
    for (model, recipe, macs), cells in found.items():
        yield f"| {model} | {recipe} | {macs:.2f} | {' | '.join(cells.get(one, '') for one in precisions)} |"


def _releases(rows: Sequence[Row]) -> Iterator[str]:
    """Yields a line for each precision: the oldest releases that are right, decibels in the newest, the refusal."""
    plain = [row for row in rows if not row["case"].keys() - {"precision", "weights"} and not row["refused"]]
    models = list(dict.fromkeys(row["model"] for row in plain))
    runtimes = list(dict.fromkeys(release.partition(" ")[0] for release in plain[0]["outcomes"]))
    yield from _head(["", *(TITLES[runtime] for runtime in runtimes), *models, "older releases say"])
    found: dict[str, list[Row]] = {}
    for row in plain:
        found.setdefault(" ".join(row["case"].values()), []).append(row)
    for title, same in found.items():
        oldest = [_oldest(same, runtime) for runtime in runtimes]
        cells = {row["model"]: f"{_newest(row, runtimes[0]):.1f} dB" for row in same}
        said = " / ".join(dict.fromkeys(filter(None, (_said(same[0], runtime) for runtime in runtimes))))
        yield f"| {title} | {' | '.join(oldest)} | {' | '.join(cells.get(one, '') for one in models)} | {said} |"


def _oldest(rows: Sequence[Row], runtime: str) -> str:
    """Returns the oldest release that most models need, with the models that need another one."""
    each = {row["model"]: _right_since(row, runtime) for row in rows}
    usual = max(each.values(), key=list(each.values()).count)
    others = [f"{model}: {release}" for model, release in each.items() if release != usual]
    return f"{usual} ({', '.join(others)})" if others else usual


def _right_since(row: Row, runtime: str) -> str:
    """Returns the release of a runtime from which on a row is right."""
    oldest = "none"
    for release in reversed([name for name in row["outcomes"] if name.startswith(runtime)]):
        if not row["outcomes"][release]["right"]:
            break
        oldest = release.partition(" ")[2]
    return oldest


def _newest(row: Row, runtime: str) -> float:
    found = [outcome["db"] for name, outcome in row["outcomes"].items() if name.startswith(runtime) and "db" in outcome]
    return float(found[-1])


def _said(row: Row, runtime: str) -> str:
    """Returns what the last release of a runtime that refused a file said; empty where none did."""
    said = [outcome.get("refused", "") for name, outcome in row["outcomes"].items() if name.startswith(runtime)]
    text = next((text.replace("|", "/") for text in reversed(said) if text), "")
    told: list[str] = []
    for part in text.split(", "):
        told += [] if any(part in one for one in told) else [part]  # the same operator again
    return ", ".join(told)[:_LONGEST]


def _head(cells: Sequence[str]) -> Iterator[str]:
    yield f"| {' | '.join(cells)} |"
    yield "|---" * len(cells) + "|"


def _environments(rows: Sequence[Row]) -> Iterator[str]:
    """Yields a line for each package, with its version in each environment, and one for the outcome of the tests."""
    yield from _head(["", *(f"Python {row['python']}, {_RESOLUTIONS[row['resolution']]}" for row in rows)])
    for name in rows[0]["packages"]:
        yield f"| {name} | {' | '.join(row['packages'][name] for row in rows)} |"
    for title, key in (("tests passed", "passed"), ("tests skipped", "skipped")):
        yield f"| {title} | {' | '.join(str(row[key]) for row in rows)} |"
    yield f"| tests failed | {' | '.join(str(len(row['failed'])) for row in rows)} |"
    yield f"| of | {' | '.join(', '.join(f'`{name}`' for name in row['tests']) for row in rows)} |"


_RESOLUTIONS = {"lowest-direct": "the oldest", "highest": "the newest"}
TABLES: Mapping[str, Callable[[Sequence[Row]], Iterator[str]]] = {
    "compare_demo": _comparisons,
    "sparsity_demo": lambda rows: images_lost(rows, lambda row: f"{row['sparsity']}, {row['selection']}"),
    "pruning_demo": lambda rows: images_lost(rows, lambda row: str(row["recipe"])),
    "pruning_speed": _times,
    "runtime_versions": _releases,
    "environments": _environments,
    "quantize_time": _quantizers,
}


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
