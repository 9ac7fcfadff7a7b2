# SPDX-License-Identifier: Apache-2.0
"""Runs a program of ``benchmarks/children`` in a process of its own, so that it starts with nothing in memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
_MARK = "RESULT "


def run_child(name: str, *arguments: object, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Returns the result that a child reported; empty where it reported none.

    Args:
        name: of a module in ``benchmarks/children``.
        arguments: its arguments; paths are absolute, as the child runs in the root of the repository.
        environment: variables that are set for the child beside those of this process.

    Raises:
        subprocess.CalledProcessError: the child failed.
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", f"benchmarks.children.{name}", *map(str, arguments)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
    )
    result: dict[str, Any] = json.loads(done.stdout.rpartition(_MARK)[2]) if _MARK in done.stdout else {}
    return result


def report(result: Mapping[str, Any]) -> None:
    """Prints a child's result for `run_child`; whatever libraries printed before it is ignored."""
    print(_MARK + json.dumps(result))
