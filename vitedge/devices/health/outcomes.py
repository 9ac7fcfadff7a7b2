# SPDX-License-Identifier: Apache-2.0
"""Outcomes of trials, read from the lines of their process; what a crash left undone is tried in a new process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vitedge.devices.health.names import ABSENT, BEGINS, BROKEN, WORKS
from vitedge.devices.transports.transport import Completed
from vitedge.sentences import fate

LIMIT_S = 240.0
"""Seconds that a process with all trials of a device may take: a board reads its libraries from an SD card."""
TRTEXEC = "trtexec"
"""The trial that needs no Python."""
_KILLED = 128


@dataclass(frozen=True)
class Outcome:
    """What one trial ended with."""

    trial: str
    state: str
    """One of the constants of `vitedge.devices.health.trials`."""
    told: Mapping[str, Any] = field(default_factory=dict)
    """What a trial that works tells, such as the version."""
    error: str = ""
    """Types and messages of the errors, a line each, the last one first."""
    said: str = ""
    """What the library printed meanwhile."""


def outcomes(names: Sequence[str], process: Callable[[Sequence[str]], Completed]) -> dict[str, Outcome]:
    """Returns the outcome of each trial by its name.

    Args:
        names: of the trials, in their order.
        process: runs some of them in a new process and returns what it wrote.
    """
    found: dict[str, Outcome] = {}
    left = list(names)
    while left:
        done = process(left)
        read = _read(done, left)
        found.update(read)
        left = [name for name in left if name not in read]
        if left:  # the process ended in the middle of this one
            found[left[0]] = Outcome(left[0], BROKEN, error=_end(done), said=_said(done.err).get(left[0], ""))
            left = left[1:]
    return found


def process_here(module: str) -> Callable[[Sequence[str]], Completed]:
    """Returns what runs trials on this machine, with this process' import path.

    Args:
        module: dotted name of one that takes names of trials as arguments.
    """

    def process(names: Sequence[str]) -> Completed:
        search = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        command = [sys.executable, "-m", module, *names]
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=LIMIT_S,
                check=False,
                env={**os.environ, "PYTHONPATH": search},
            )
            code, out, err = done.returncode, done.stdout, done.stderr
        except subprocess.TimeoutExpired as late:
            code, out, err = _KILLED + 9, late.stdout or b"", late.stderr or b""
        texts = (text.decode("utf-8", errors="replace") for text in (out, err))
        return Completed(code if code >= 0 else _KILLED - code, *texts)

    return process


def of_trtexec(version: str, refusal: str, *, is_there: bool) -> Outcome:
    """Returns the outcome of looking for trtexec: its version, or why it does not run."""
    if not refusal:
        return Outcome(TRTEXEC, WORKS, {"version": version})
    return Outcome(TRTEXEC, BROKEN if is_there else ABSENT, error=refusal)


def _read(done: Completed, names: Sequence[str]) -> dict[str, Outcome]:
    said = _said(done.err)
    found = {}
    for line in done.out.splitlines():
        try:
            entry = json.loads(line)
            name, state = str(entry["trial"]), str(entry["state"])
            told, error = dict(entry.get("told", {})), str(entry.get("error", ""))
        except (ValueError, KeyError, TypeError):
            continue
        if name in names:
            found[name] = Outcome(name, state, told, error, said.get(name, ""))
    return found


def _said(text: str) -> dict[str, str]:
    """Returns what was printed on the standard error during each trial."""
    parts = f"\n{text}".split(f"\n{BEGINS}")[1:]
    pairs = (part.partition("\n") for part in parts)
    return {name.strip(): rest.strip() for name, _, rest in pairs}


def _end(done: Completed) -> str:
    code = _KILLED - done.code if done.code > _KILLED else done.code
    return f"its process {fate(code)} ({done.last_words})" if not code < 0 else f"its process {fate(code)}"
