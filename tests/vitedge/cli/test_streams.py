# SPDX-License-Identifier: Apache-2.0
"""Streams that are closed, full, narrow or left by their reader, and signals: every command answers as a Unix tool."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.bad_files import VIT

VITEDGE = f"{shlex.quote(sys.executable)} -m vitedge"
BROKEN = 128 + signal.SIGPIPE


def shell(script: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Runs a script of bash in which ``vitedge`` is the command line."""
    return subprocess.run(
        ["bash", "-c", f'vitedge() {{ {VITEDGE} "$@"; }}; {script}'],
        capture_output=True,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize("command", ["profiles", "profiles --json", "--help", "validate nowhere"])
@pytest.mark.parametrize(
    ("redirection", "code"),
    [("| true; exit ${PIPESTATUS[0]}", BROKEN), (">&-", 2), ("> /dev/full", 2), ("2>&-", 0), ("2> /dev/full", 0)],
)
def test_a_stream_that_takes_nothing_ends_the_command_without_a_traceback(
    command: str, redirection: str, code: int
) -> None:
    found = shell(f"vitedge {command} {redirection}")
    assert found.returncode == (2 if command.startswith("validate") else code), found.stderr
    assert b"Traceback" not in found.stderr
    assert len(found.stderr.splitlines()) <= 1


def test_all_streams_closed_leave_the_exit_code() -> None:
    assert shell("vitedge validate nowhere <&- >&- 2>&-").returncode == 2


@pytest.mark.parametrize(
    "environment", [{"PYTHONIOENCODING": "ascii"}, {"COLUMNS": "0"}, {"COLUMNS": "1"}, {"PYTHONIOENCODING": "latin-1"}]
)
def test_a_terminal_that_can_little_shows_the_table_all_the_same(environment: dict[str, str]) -> None:
    found = shell("vitedge profiles", **environment)
    assert found.returncode == 0
    assert found.stderr == b""
    assert b"profile " in found.stdout.splitlines()[1]
    assert b"cpu-x86" in found.stdout
    if "PYTHONIOENCODING" in environment:
        assert found.stdout.isascii()


@pytest.mark.parametrize("name", ["a\x9bb.pth", "a\u202eb.pth", "a\x1b[2Jb.pth", "a\nb.pth", "\udce9.pth"])
def test_no_name_reaches_the_terminal_raw(name: str) -> None:
    found = subprocess.run(
        [sys.executable, "-m", "vitedge", "validate", name], capture_output=True, text=True, check=False
    )
    assert found.returncode == 2
    assert len(found.stderr.splitlines()) == 1
    assert found.stderr.strip().isprintable()


def test_a_name_longer_than_the_system_takes_is_one_sentence() -> None:
    found = shell(f"vitedge bench {'x' * 300}; vitedge validate {'x' * 300}")
    assert found.returncode == 2
    assert b"Traceback" not in found.stderr


@pytest.mark.parametrize(("package", "form"), [("onnxruntime", "onnx"), ("onnx", "onnx"), ("coremltools", "coreml")])
def test_a_package_that_is_missing_is_named_with_the_command_that_installs_it(
    package: str, form: str, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules[{package!r}] = None\n", encoding="utf-8")
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", ""), str(Path.cwd())])
    found = shell(f"vitedge export {VIT} -o {tmp_path}/out --format {form} --image-count 2", PYTHONPATH=paths)
    assert found.returncode == 3, found.stderr
    sentence = found.stderr.decode().splitlines()[-1]
    assert package in sentence
    assert "type: pip install" in sentence
    assert b"Traceback" not in found.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGINT, signal.SIGINT]])
def test_a_signal_is_answered_with_a_word_and_its_exit_code(signals: list[signal.Signals], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vitedge", "export", str(VIT), "-o", str(tmp_path / "out"), "--image-count", "2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    process.stderr.readline()
    for number in signals:
        process.send_signal(number)
        time.sleep(0.01)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signals[0]
    assert f"Stopped by {signals[0].name}" in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []
