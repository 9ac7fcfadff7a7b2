# SPDX-License-Identifier: Apache-2.0
"""Runs every precision in the releases of ONNX Runtime and OpenVINO that boards have, each in its own environment.

``python -m benchmarks.runtime_versions`` from the root of the repository writes
``benchmarks/results/runtime_versions.json``: for each file and release the centred SQNR in dB against the PyTorch
model, or what the release said against the file. From that it derives ``export/onnx/oldest_runtimes.json``, which tells
of any file the oldest release that computes it right. Files and environments are kept in a folder, so that a second run
with other releases is quick; delete it after changes of the exporter. ``--derive`` derives the table anew and runs
nothing.

A float file is right within its default tolerance, a quantized one where it is not further from the model than the
simulation of its program in PyTorch, up to `SLACK_DB`, or nearer than half precision has to be.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import platformdirs

from benchmarks.quantization_models import provenance
from benchmarks.runtime_files import CASES, SUBJECTS, Case, Subject
from vitedge.errors import VitedgeError
from vitedge.export.onnx.oldest_runtimes import TABLE, operators_of
from vitedge.files.plain import from_dict
from vitedge.parity.metrics import compare, default_tolerance, exceeded

RESULTS = Path(__file__).with_name("results") / "runtime_versions.json"
CHILD = Path(__file__).with_name("children") / "runtime_file.py"
RELEASES: Mapping[str, tuple[str, ...]] = {
    "onnxruntime": tuple(f"1.{minor}" for minor in (16, 17, 18, 19, 20, 21, 22, 23, 24, 26, 28, 30, 32)),
    "openvino": ("2024.0", "2025.0", "2026.4"),
}
"""Oldest first; of each the last patch."""
OLD_NUMPY = ("onnxruntime 1.16", "onnxruntime 1.17", "onnxruntime 1.18", "openvino 2024.0")
"""Built for NumPy 1."""
SLACK_DB = 1.0
HALF_DB = 40.0
"""Default tolerance of half precision."""
MUST_WORK = {"onnxruntime": ("1.17", ("fp32", "fp16", "int8"))}
"""Runtime to the release from which on these precisions have to be right."""
_LONGEST = 160
_SIGNATURE = re.compile(r"^.*\.(?:cc|cpp|h):\d+:? (?:\S.*?\)(?: const)?(?: \[with [^\]]*\])? )?")
_HEADINGS = ("Exception from", "Check '", "FrontEnd API", "Errors during", "While validating", "Shape inference input")
"""Beginnings of lines of OpenVINO's that say where something happened, and not what."""
_PLACE = re.compile(r"\S*/\S+ ?")


@dataclass(frozen=True)
class Outcome:
    """What one release made of one file."""

    db: float | None
    """Centred SQNR; None where the file was refused."""
    right: bool
    refused: str = ""
    """What the library said."""


@dataclass(frozen=True)
class Row:
    """One file in every release."""

    model: str
    family: str
    case: Case
    opset: int = 0
    simulated_db: float | None = None
    """Centred SQNR of the quantized program in PyTorch."""
    operators: tuple[str, ...] = ()
    """As `vitedge.export.onnx.oldest_runtimes.operators_of` names them."""
    refused: str = ""
    """Why vitedge writes no such file."""
    outcomes: Mapping[str, Outcome] = field(default_factory=dict)
    """Name and number of a release to what it made of the file."""

    @property
    def name(self) -> str:
        """Returns what it is called in file names and on the screen."""
        return f"{self.model}-{self.case.name}"


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--folder", type=Path, default=Path(platformdirs.user_cache_dir("vitedge-runtimes")))
    asked.add_argument("--derive", action="store_true", help="derive the table from the committed results alone")
    asked.add_argument("-o", "--output", type=Path, default=RESULTS)
    options = asked.parse_args()
    if not options.derive:
        write(options.output, measured(options.folder))
    rows = read(options.output)
    write_table(TABLE, table_of(rows))
    missed = missing(rows)
    print(f"missed: {'; '.join(missed) or 'nothing'}; {options.output.name}, {TABLE.name}")
    sys.exit(bool(missed))


def measured(folder: Path) -> list[Row]:
    """Returns the rows of all files, which lie in a folder afterwards."""
    rows = []
    for subject in SUBJECTS:
        rows += made(subject, folder / "files" / subject.title)
        print(f"{subject.title}: files written", flush=True)
    for runtime, numbers in RELEASES.items():
        for number in numbers:
            python = environment(runtime, number, folder)
            rows = [in_release(row, f"{runtime} {number}", found) for row, found in each(rows, runtime, python, folder)]
            right = sum(row.outcomes[f"{runtime} {number}"].right for row in rows if not row.refused)
            print(f"{runtime} {number}: {right} of {len(rows)} files right", flush=True)
    return rows


def made(subject: Subject, folder: Path) -> Iterator[Row]:
    """Yields a row without outcomes for each case of a model; what is there already is not written again."""
    folder.mkdir(parents=True, exist_ok=True)
    for case in CASES:
        if not subject.has(case):
            continue
        path, row = folder / f"{case.name}.onnx", Row(subject.title, subject.family, case)
        facts = path.with_suffix(".json")
        if not facts.exists():
            facts.write_text(json.dumps(_written(subject, case, path)))
        yield replace(row, **_plain(json.loads(facts.read_text())))


def _written(subject: Subject, case: Case, path: Path) -> dict[str, Any]:
    try:
        simulated = subject.write(case, path)
    except VitedgeError as error:
        return {"refused": str(error)}
    model = onnx.load(path, load_external_data=False)
    simulated_db = None if simulated is None else _db(subject.expected(case), simulated)
    operators = operators_of(model)
    opset = next(entry.version for entry in model.opset_import if not entry.domain)
    return {"opset": opset, "simulated_db": simulated_db, "operators": operators}


def _plain(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {**facts, "operators": tuple(facts.get("operators", ()))}


def environment(runtime: str, number: str, folder: Path) -> Path:
    """Returns the interpreter of a virtual environment with one release and NumPy, and nothing else.

    Raises:
        subprocess.CalledProcessError: there is no such release for this interpreter.
    """
    place = folder / f"{runtime}-{number}"
    python = place / "bin" / "python"
    if not place.exists():
        part = place.with_suffix(".part")
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(part)], check=True)
        numpy = "numpy<2" if f"{runtime} {number}" in OLD_NUMPY else "numpy"
        pip = [str(part / "bin" / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        subprocess.run([*pip, f"{runtime}=={number}.*", numpy], check=True)
        part.rename(place)
    return python


def each(rows: Sequence[Row], runtime: str, python: Path, folder: Path) -> Iterator[tuple[Row, Outcome | None]]:
    """Yields each row with what a release made of its file; None where there is no file."""
    waiting = {row.name: row for row in rows if not row.refused}
    said: dict[str, str] = {}
    out, job = folder / "outputs", folder / "job.json"
    out.mkdir(exist_ok=True)
    while waiting.keys() - said.keys():
        left = [row for name, row in waiting.items() if name not in said]
        files = {row.name: _paths(row, folder) for row in left}
        job.write_text(json.dumps({"out": str(out), "files": files}))
        command = [str(python), str(CHILD), runtime, str(job)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"name"')]
        if not lines and done.returncode > 0:
            raise RuntimeError(f"{runtime} cannot be imported: {done.stderr.strip().splitlines()[-1]}")
        said.update({line["name"]: first_sentence(line["refused"]) for line in lines})
        if len(lines) < len(left):
            said[left[len(lines)].name] = f"the process ended with {done.returncode}"
    for row in rows:
        yield row, None if row.refused else _outcome(row, said[row.name], out / f"{row.name}.npy", folder)


def in_release(row: Row, release: str, found: Outcome | None) -> Row:
    """Returns a row with one more outcome."""
    return row if found is None else replace(row, outcomes={**row.outcomes, release: found})


def first_sentence(text: str) -> str:
    """Returns what a library says without its paths, its sources' places and its further sentences."""
    lines = [line.strip() for line in text.splitlines()]
    line = next((one for one in lines if one and not one.startswith(_HEADINGS)), text.strip())
    line = _PLACE.sub("", _SIGNATURE.sub("", line.split(" : ", 3)[-1])).strip()
    return line[:_LONGEST].rstrip(" .:")


def _paths(row: Row, folder: Path) -> tuple[str, str]:
    here = folder / "files" / row.model
    return str(here / f"{row.case.name}.onnx"), str(here / f"images-{row.case.input}.npy")


def _outcome(row: Row, refused: str, path: Path, folder: Path) -> Outcome:
    if refused:
        return Outcome(None, right=False, refused=refused)
    expected, found = np.load(folder / "files" / row.model / "expected.npy"), np.load(path)
    if row.simulated_db is not None:
        db = _db(expected, found)
        return Outcome(db, right=bool(db >= min(row.simulated_db - SLACK_DB, HALF_DB)))
    outputs = compare({"logits": expected}, {"logits": found})
    tolerance = default_tolerance(row.case.precision, row.family)
    return Outcome(round(outputs[0].centred_sqnr_db, 2), right=not exceeded(outputs, tolerance))


def _db(expected: Any, found: Any) -> float:
    return round(compare({"logits": expected}, {"logits": found})[0].centred_sqnr_db, 2)


def table_of(rows: Sequence[Row]) -> dict[str, Any]:
    """Returns the table of operators, and of precisions by the form of weights, with the oldest releases.

    A precision has the releases that are right for all models, and for some of them.
    """
    rows = [row for row in rows if not row.refused]
    operators = sorted({name for row in rows for name in row.operators})
    holders = {name: [row for row in rows if name in row.operators] for name in operators}
    blamed = {(name, release) for row in rows for name, release in _blamed(row, holders)}
    precisions: dict[str, dict[str, Any]] = {}
    for case in (case for case in CASES if case.is_plain):
        same = [row for row in rows if row.case == case]
        if not same:
            continue
        precisions.setdefault(case.precision, {})[case.weights] = {
            "all": _each(lambda release, same=same: all(row.outcomes[release].right for row in same)),
            "some": _each(lambda release, same=same: any(row.outcomes[release].right for row in same)),
        }
    return {
        "releases": {runtime: list(numbers) for runtime, numbers in RELEASES.items()},
        "precisions": precisions,
        "operators": {
            name: _each(
                lambda release, name=name, held=held: (
                    (name, release) not in blamed and any(row.outcomes[release].right for row in held)
                )
            )
            for name, held in holders.items()
        },
    }


def _blamed(row: Row, holders: Mapping[str, Sequence[Row]]) -> Iterator[tuple[str, str]]:
    """Yields the operators, each with a release, that count as the reason of a row that is not right.

    Most such rows hold an operator that is right in no other. Where each is right in another one, it is a combination
    that is not; then those count of which the smallest share of the files that hold them is right.
    """
    for release, outcome in row.outcomes.items():
        shares = {name: _share_right(holders[name], release) for name in row.operators}
        least = min(shares.values())
        if not outcome.right and least > 0:
            yield from ((name, release) for name, share in shares.items() if share == least)


def _share_right(held: Sequence[Row], release: str) -> float:
    return sum(row.outcomes[release].right for row in held) / len(held)


def oldest(row: Row) -> dict[str, str]:
    """Returns the oldest release of each runtime from which on a row is right in all."""
    return _each(lambda release: row.outcomes[release].right)


def _each(is_right: Any) -> dict[str, str]:
    found = {}
    for runtime, numbers in RELEASES.items():
        right = [is_right(f"{runtime} {number}") for number in numbers]
        wrong = [index for index, one in enumerate(right) if not one]
        first = wrong[-1] + 1 if wrong else 0
        found[runtime] = numbers[first] if first < len(numbers) else "none"
    return found


def derived(row: Row, table: Mapping[str, Any]) -> dict[str, str]:
    """Returns what the table says of a row."""
    found = {}
    for runtime, numbers in RELEASES.items():
        order = (*numbers, "none")
        found[runtime] = max((table["operators"][name][runtime] for name in row.operators), key=order.index)
    return found


def missing(rows: Iterable[Row]) -> list[str]:
    """Returns what has to work and does not, and rows of which the table says an older release than works."""
    rows = [row for row in rows if not row.refused]
    found, table = [], table_of(rows)
    for row in rows:
        own, told = oldest(row), derived(row, table)
        for runtime, numbers in RELEASES.items():
            order = (*numbers, "none")
            if order.index(told[runtime]) < order.index(own[runtime]):
                found.append(f"{row.name}: {runtime} from {told[runtime]} on by its operators, {own[runtime]} measured")
        for runtime, (release, precisions) in MUST_WORK.items():
            order = (*RELEASES[runtime], "none")
            due = row.case.precision in precisions and row.case.is_plain
            if due and order.index(own[runtime]) > order.index(release):
                found.append(f"{row.name}: {runtime} from {own[runtime]} on, not from {release}")
    return found


def write(path: Path, rows: Sequence[Row]) -> None:
    """Writes the results, a line a file; operators are numbered."""
    names = sorted({name for row in rows for name in row.operators})
    numbers = {name: index for index, name in enumerate(names)}
    told = provenance(
        weights="the demo's trained models; others seeded",
        images="the demo's test images; synthetic for the others",
        releases=RELEASES,
        slack_db=SLACK_DB,
    )
    plain = [{**asdict(row), "operators": [numbers[name] for name in row.operators]} for row in rows]
    lines = ",\n".join(f"  {json.dumps(_brief(row))}" for row in plain)
    head = json.dumps({"provenance": told, "operators": names}, indent=1)[:-2]
    path.write_text(f'{head},\n "rows": [\n{lines}\n ]\n}}\n', encoding="utf-8")


def _brief(row: dict[str, Any]) -> dict[str, Any]:
    case = {
        name: value
        for name, value in row["case"].items()
        if value != getattr(Case("fp32"), name) or name == "precision"
    }
    outcomes = {
        name: {key: value for key, value in one.items() if value not in ("", None)}
        for name, one in row["outcomes"].items()
    }
    return {**row, "case": case, "outcomes": outcomes}


def read(path: Path) -> list[Row]:
    """Returns the rows of a file of results."""
    content = json.loads(path.read_text(encoding="utf-8"))
    names, rows = content["operators"], content["rows"]
    return [
        from_dict(
            Row,
            {
                **row,
                "operators": [names[index] for index in row["operators"]],
                "outcomes": {name: {"db": None, **one} for name, one in row["outcomes"].items()},
            },
        )
        for row in rows
    ]


def write_table(path: Path, table: Mapping[str, Any]) -> None:
    """Writes the table, a line an operator."""
    parts = []
    for title, entries in table.items():
        lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(entry)}" for name, entry in entries.items())
        parts.append(f' "{title}": {{\n{lines}\n }}')
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
