# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
import platform
from pathlib import Path

import numpy as np
import pytest

from vitedge.devices import machine


def write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def board(tmp_path: Path) -> Path:
    """A root folder with the facts that a Jetson tells about itself."""
    write(tmp_path, "proc/device-tree/model", "NVIDIA Jetson Orin Nano Developer Kit\0")
    write(tmp_path, "proc/cpuinfo", "processor\t: 0\nmodel name\t: ARMv8 Processor rev 1 (v8l)\n")
    write(tmp_path, "proc/meminfo", "MemTotal:        7804892 kB\nMemFree: 1 kB\n")
    write(tmp_path, "etc/nv_tegra_release", "# R36 (release), REVISION: 4.3, GCID: 1\nmore\n")
    write(tmp_path, "etc/os-release", 'NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 22.04.5 LTS"\n')
    for cpu in (0, 1, 10):
        write(tmp_path, f"sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_cur_freq", f"{1510400 + cpu * 1000}\n")
    write(tmp_path, "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "schedutil\n")
    write(tmp_path, "sys/class/thermal/thermal_zone0/temp", "48312\n")
    write(tmp_path, "sys/class/thermal/thermal_zone0/type", "cpu-thermal\n")
    return tmp_path


def test_identity_of_a_board(board: Path) -> None:
    found = machine.identity(board)
    assert found["model"] == "NVIDIA Jetson Orin Nano Developer Kit"
    assert found["processor"] == "ARMv8 Processor rev 1 (v8l)"
    assert found["memory_mb"] == 7992
    assert found["os"] == "Ubuntu 22.04.5 LTS"
    assert (found["l4t"], found["jetpack"]) == ("36.4.3", "6.2")
    assert found["versions"]["numpy"] == np.__version__
    assert found["python"] == platform.python_version()


def test_condition_of_a_board(board: Path) -> None:
    found = machine.condition(board)
    assert found["governor"] == "schedutil"
    assert found["clocks_mhz"] == [1510, 1511, 1520]
    assert found["temperatures"] == {"thermal_zone0 cpu-thermal": 48.312}


def test_nothing_fails_where_nothing_is_told(tmp_path: Path) -> None:
    write(tmp_path, "sys/class/thermal/thermal_zone0/temp", "unreadable\n")
    assert "governor" not in machine.condition(tmp_path)
    assert "model" not in machine.identity(tmp_path) or platform.system() == "Darwin"
    json.dumps([machine.identity(tmp_path), machine.condition(tmp_path)])


def test_this_machine_is_plain_data() -> None:
    found = machine.identity()
    assert found["cores"] <= (os.cpu_count() or 1)
    json.dumps([found, machine.condition()])
