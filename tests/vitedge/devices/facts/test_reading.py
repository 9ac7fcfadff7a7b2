# SPDX-License-Identifier: Apache-2.0
"""Tests of reading and of `python_versions`."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vitedge.devices import facts
from vitedge.devices.facts import reading
from vitedge.devices.facts.reading import CONDITION, IDENTITY, PYTHON, Reading, local, script, split

SHELLS = [["sh"], ["dash"], ["bash"], ["busybox", "sh"]]
there = [pytest.param(shell, marks=pytest.mark.skipif(not shutil.which(shell[0]), reason=f"apt install {shell[0]}"))
         for shell in SHELLS]  # fmt: skip


def run(shell: list[str], text: str, token: str, **environment: str) -> dict[str, str]:
    done = subprocess.run(
        [*shell, "-c", text], capture_output=True, check=True, stdin=subprocess.DEVNULL, timeout=60,
        env=environment or None,
    )  # fmt: skip
    assert not done.stderr
    return dict(split(done.stdout.decode(errors="replace"), token))


def write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())


@pytest.mark.parametrize("shell", there)
def test_sh_reads_what_python_reads_of_the_same_files(shell: list[str], tmp_path: Path) -> None:
    root = tmp_path / "it's a $board"
    write(root, "proc/device-tree/model", "NVIDIA Jetson\0")
    write(root, "proc/device-tree/compatible", "nvidia,p3767\0nvidia,tegra234\0")
    write(root, "proc/cpuinfo", "processor\t: 0\n\nprocessor\t: 1\n\n")
    write(root, "etc/nv_tegra_release", "# R36 (release)\r\nmore")
    write(root, "etc/os-release", " \n")
    for cpu in (0, 3, 11):
        write(root, f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list", f"{cpu}\n")
    (root / "proc/meminfo").mkdir()
    files = Reading(IDENTITY.files, ())
    found = run(shell, script(files, "tok3n", str(root)), "tok3n")
    assert found == local(files, root)
    assert found["/proc/device-tree/compatible"] == "nvidia,p3767\0nvidia,tegra234"
    assert len(found) == 7


@pytest.mark.parametrize("shell", there)
def test_sh_reads_what_python_reads_of_this_machine(shell: list[str]) -> None:
    asked = Reading(IDENTITY.files, IDENTITY.commands)
    found, expected = run(shell, script(asked, "t"), "t"), local(asked)
    assert found.keys() == expected.keys()
    assert facts.identity(found) == facts.identity(expected)


def test_sh_asks_python_like_python_does() -> None:
    asked = Reading((), (), python=True)
    found = run(["sh"], script(asked, "t", python=sys.executable), "t")
    assert found == local(asked, python=sys.executable)


@pytest.mark.parametrize("shell", there)
def test_commands_are_run_where_they_exist_and_get_no_input(shell: list[str], tmp_path: Path) -> None:
    """The programs are stand-ins."""
    for name, body in {
        "nvpmodel": 'cat; echo "NV Power Mode: $1"; echo noise >&2; exit 3',
        "jetson_clocks": "echo SOC family",
        "sudo": 'shift; exec "$@"',
        "vcgencmd": "exit 1",
    }.items():
        write(tmp_path, f"bin/{name}", f"#!/bin/sh\n{body}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    found = run(shell, script(CONDITION, "t", str(tmp_path)), "t", PATH=f"{tmp_path}/bin:/usr/bin:/bin")
    assert found == {
        "nvpmodel -q": "NV Power Mode: -q",
        "jetson_clocks --show": "SOC family",
        "sudo -n jetson_clocks --show": "SOC family",
    }


@pytest.mark.skipif(not shutil.which("timeout"), reason="apt install coreutils")
def test_a_command_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "COMMAND_S", 1)
    commands = Reading((), (("sleep", "30"), ("echo", "after")))
    expected = {"echo after": "after"}
    assert run(["sh"], script(commands, "t"), "t") == local(commands) == expected


def test_a_text_that_may_be_cut_short_is_left_out() -> None:
    whole = "banner\n\nT a\n1\n\nT b c\n2\n3\n\nT end\n"
    assert split(whole, "T") == {"a": "1", "b c": "2\n3"}
    assert split(whole[:-7], "T") == {"a": "1"}
    assert split("", "T") == split("T", "T") == {}


def test_python_tells_its_versions_and_what_cannot_be_imported(tmp_path: Path) -> None:
    write(tmp_path, "tensorrt.py", "raise OSError('libnvinfer.so.10: cannot open shared object file')")
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n" + reading.PROGRAM.read_text()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    assert told["versions"]["numpy"] == np.__version__
    assert "CPUExecutionProvider" in told["providers"]
    assert told["problems"] == {"tensorrt": "OSError: libnvinfer.so.10: cannot open shared object file"}


def test_the_oldest_python_of_a_jetson_can_read_it() -> None:
    assert ast.parse(reading.PROGRAM.read_text(), feature_version=(3, 6)).body  # JetPack 4; what it cannot read raises


def test_this_process_tells_its_versions_without_imports() -> None:
    told = json.loads(local(Reading((), (), python=True))[PYTHON])
    assert told["versions"]["numpy"] == np.__version__
    assert "providers" not in told
