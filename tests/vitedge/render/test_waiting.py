# SPDX-License-Identifier: Apache-2.0
"""Progress as a terminal and a file show it (`vitedge.render.waiting`, `vitedge.render.version`)."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from tests.vitedge import terminal
from vitedge.registry import environment
from vitedge.render.version import render

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
WORK = """
import sys, time, warnings
from vitedge.progress import counted, note, reporting, stage
from vitedge.render import waiting
waiting.WORTH_TELLING_S = 0.5
with reporting(waiting.listener({options})), stage("quantize", whole=True) as whole:
    whole.count(3, 1)
    with stage("rounding"):
        for _ in counted(range(4), unit="layer"):
            time.sleep(0.3)
        note("said above")
        warnings.warn("of a library")
    with stage("short"):
        pass
print("the result")
"""


def lines(written: str) -> list[str]:
    """What the lines were when they were left or drawn again."""
    return [line for line in re.split(r"[\r\n]+", ESCAPE.sub("", written)) if line.strip()]


@pytest.mark.parametrize("columns", [80, 120])
def test_a_terminal_shows_one_bar_with_the_time_left(columns: int) -> None:
    code, written = terminal.run(WORK.format(options=""), columns)
    assert code == 0
    shown = lines(written)
    drawn = [line for line in shown if "━" in line]
    assert all(len(line) == columns for line in drawn)
    assert any(re.match(r"\[2/3\] rounding +[━╺╸]+ *[1-3]/4 *\d s left", line) for line in drawn), drawn
    left = [line for line in shown if "━" not in line]
    assert [left[0], left[-1]] == ["note: said above", "the result"]
    assert any("of a library" in line for line in left)
    assert any(re.fullmatch(r"rounding: 1\.\d s", line) for line in left), left
    assert not any(line.startswith("short") for line in left)
    assert "\x1b[?25l" not in written, "a cursor that is hidden stays so if the process is killed"
    assert written.index("\x1b[2K", written.index("said above")) < written.index("the result")


def test_verbose_tells_the_time_of_every_stage_and_quiet_nothing() -> None:
    _, written = terminal.run(WORK.format(options="verbose=True"), 80)
    assert any(line.startswith("short: 0.0 s") for line in lines(written))
    _, written = terminal.run(WORK.format(options="quiet=True"), 80)
    assert [line for line in lines(written) if "library" not in line and "warnings.warn" not in line] == ["the result"]


def test_elsewhere_there_are_plain_lines_that_are_never_cut() -> None:
    long = "x" * 150
    script = WORK.format(options="").replace('stage("short")', f'stage("{long}")')
    command = [sys.executable, "-W", "ignore", "-c", script]
    found = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "80"})
    assert found.stdout == "the result\n"
    assert found.stderr == f"rounding …\nnote: said above\n{long} …\n"


def test_nothing_is_coloured_but_on_a_terminal_without_no_color() -> None:
    script = """
from vitedge.render.screen import error, lines, show, table
drawn = table("artifact", "check")
drawn.add_row("m.onnx", "passed")
drawn.add_row("n.onnx", "FAILED")
show(drawn)
lines("out: FAILED: why")
error("a sentence")
"""
    _, written = terminal.run(script, 80)
    coloured = re.findall(r"\x1b\[((?:1;)?3\d)m(\w[\w: ]*?)\x1b\[0m", written)
    assert coloured == [("32", "passed"), ("1;31", "FAILED"), ("1;31", "FAILED"), ("1;31", "vitedge: ")]
    _, plain = terminal.run(script, 80, NO_COLOR="1")
    assert not re.search(r"\x1b\[\d*;?3\d", plain)
    piped = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "\x1b" not in piped.stdout + piped.stderr


def test_versions_begin_with_ours(capsys: pytest.CaptureFixture[str]) -> None:
    render({"torch": "2", **environment(), "vitedge": "1.0"})
    assert capsys.readouterr().out.splitlines()[0] == "vitedge 1.0"
