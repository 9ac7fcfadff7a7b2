# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
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
    assert machine.cores(tmp_path) >= 1
    json.dumps([machine.identity(tmp_path), machine.condition(tmp_path)])


def test_this_machine_is_plain_data() -> None:
    found = machine.identity()
    assert found["cores"] <= (os.cpu_count() or 1)
    json.dumps([found, machine.condition()])


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="affinity is told on Linux only")
def test_cores_are_the_physical_ones_that_may_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1, 2, 3})
    assert machine.cores(tmp_path) == 4
    for cpu, twins in enumerate(("0,2", "1,3", "0,2", "1,3")):
        write(tmp_path, f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list", twins)
    assert machine.cores(tmp_path) == 2
    write(tmp_path, "sys/fs/cgroup/cpu.max", "50000 100000\n")
    assert machine.cores(tmp_path) == 1
    write(tmp_path, "sys/fs/cgroup/cpu.max", "max 100000\n")
    assert machine.cores(tmp_path) == 2


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="affinity is told on Linux only")
@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 4),
        ({"sys/fs/cgroup/cpu.max": "150000 100000"}, 2),
        ({"sys/fs/cgroup/cpu.max": "max 100000"}, 4),
        ({"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/cpu.max": "100000 100000"}, 1),
        ({"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/c/cpu.max": "100000 100000"}, 4),
        ({"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "300000", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, 3),
        ({"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, 4),
        (
            {
                "proc/self/cgroup": "4:memory:/m\n3:cpu,cpuacct:/docker/x",
                "sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_quota_us": "200000",
                "sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_period_us": "100000",
            },
            2,
        ),
    ],
)
def test_processors_are_counted_by_affinity_and_quotas(
    files: dict[str, str], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1, 2, 3})
    for name, text in files.items():
        write(tmp_path, name, f"{text}\n")
    assert machine.processors(tmp_path) == machine.cores(tmp_path) == expected


def test_peak_memory_grows_with_what_is_used_and_never_shrinks() -> None:
    script = (
        "from vitedge.devices.machine import peak_memory_mb as peak; before = peak(); "
        "block = bytearray(200_000_000); block[::4096] = b'x' * len(block[::4096]); during = peak(); del block; "
        "print(before, during, peak())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    before, during, after = map(float, done.stdout.split())
    assert 190 < during - before < 260
    assert after >= during - 1


def test_peak_memory_is_not_the_parents() -> None:
    block = np.ones(60_000_000)  # 480 MB, written to
    script = "from vitedge.devices.machine import peak_memory_mb; print(peak_memory_mb())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert block.sum() == block.size
    assert float(done.stdout) < 300
