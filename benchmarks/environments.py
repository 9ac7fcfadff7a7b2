# SPDX-License-Identifier: Apache-2.0
"""Runs the tests with the oldest and the newest packages that pyproject.toml allows: ``make test-lowest``.

``python -m benchmarks.environments --python 3.10 --resolution lowest-direct [TESTS...]`` lets uv resolve the packages,
installs them into an environment of their own, and keeps their versions with what passed and what failed. Without TESTS
it runs everything that ``make test`` runs. Then ``make docs`` renders the table of docs/systems.md.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from benchmarks.sheet import Sheet

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results" / "environments.json"
SHOWN = (
    "torch", "torchvision", "timm", "numpy", "ml-dtypes", "safetensors", "onnx", "onnxscript", "onnx-ir", "onnxruntime",
    "coremltools", "openvino", "transformers", "huggingface-hub", "typer", "rich", "cattrs", "platformdirs", "pillow",
    "pytest",
)  # fmt: skip
"""The packages whose versions are kept."""
_OTHERS_NOTICES = ("DeprecationWarning", "PendingDeprecationWarning", "FutureWarning")
"""Warnings that old packages raise about newer ones, which are not ours to mend: they are no failures here."""


@dataclass(frozen=True)
class Row:
    """One environment, and the outcome of the tests in it."""

    python: str
    resolution: str
    """``lowest-direct`` or ``highest``, as uv calls them."""
    packages: Mapping[str, str]
    """Package to its version."""
    tests: tuple[str, ...]
    """Files and folders of tests; ``tests`` is all that ``make test`` runs."""
    passed: int
    skipped: int
    failed: tuple[str, ...]
    """Names of the tests that failed."""
    seconds: float


def main() -> int:
    """Adds the row of one environment; returns 1 where a test failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", required=True, help="a version, or the path of an interpreter")
    parser.add_argument("--resolution", required=True, choices=("lowest-direct", "highest"))
    parser.add_argument("--folder", type=Path, help="keep the environment here; a temporary folder if not given")
    parser.add_argument("tests", nargs="*", default=["tests"])
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        python = _environment(asked.folder or Path(place) / "environment", asked.python, asked.resolution)
        row = _run(python, asked.resolution, asked.tests, Path(place) / "report.xml")
    sheet = Sheet(RESULTS, Row, lambda row: (row.python, row.resolution), _missed, {})
    sheet.put(row)
    print(f"{row.passed} passed, {len(row.failed)} failed, {row.skipped} skipped")
    return int(bool(row.failed))


def _environment(folder: Path, python: str, resolution: str) -> Path:
    """Installs the packages and vitedge, editable; returns the environment's interpreter."""
    uv = (sys.executable, "-m", "uv", "--quiet")
    found = folder / "bin" / "python"
    if not found.exists():
        subprocess.run([*uv, "venv", "--seed", "--python", python, str(folder)], check=True)
    listed = folder / "requirements.txt"
    resolve = [*uv, "pip", "compile", "--resolution", resolution, "--extra", "dev", "--python", str(found)]
    subprocess.run([*resolve, "--output-file", str(listed), str(ROOT / "pyproject.toml")], check=True)
    install = [*uv, "pip", "install", "--python", str(found)]
    subprocess.run([*install, "--requirements", str(listed)], check=True)
    subprocess.run([*install, "--no-deps", "--editable", str(ROOT)], check=True)
    return found


def _run(python: Path, resolution: str, tests: Sequence[str], report: Path) -> Row:
    told = subprocess.run([str(python), "-c", _VERSIONS, *SHOWN], check=True, capture_output=True, text=True).stdout
    release, *versions = told.split()
    ignored = [word for name in _OTHERS_NOTICES for word in ("-W", f"ignore::{name}")]
    workers = ("-n", "2", "--dist", "worksteal")
    command = [str(python), "-m", "pytest", "-q", "-m", "not slow", *workers, f"--junitxml={report}", *ignored, *tests]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    start = time.monotonic()
    subprocess.run(command, cwd=ROOT, env=environment, check=False)
    cases = list(ElementTree.parse(report).iter("testcase"))
    bad = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = sum(case.find("skipped") is not None for case in cases)
    return Row(
        python=release,
        resolution=resolution,
        packages=dict(zip(SHOWN, versions, strict=True)),
        tests=tuple(tests),
        passed=len(cases) - len(bad) - skipped,
        skipped=skipped,
        failed=tuple(f"{case.get('classname')}.{case.get('name')}" for case in bad),
        seconds=round(time.monotonic() - start, 1),
    )


_VERSIONS = """
import importlib.metadata, platform, sys
print(platform.python_version(), *map(importlib.metadata.version, sys.argv[1:]))
"""


def _missed(rows: Sequence[Row]) -> list[str]:
    return [f"Python {row.python}, {row.resolution}: {len(row.failed)} tests failed" for row in rows if row.failed]


if __name__ == "__main__":
    sys.exit(main())
