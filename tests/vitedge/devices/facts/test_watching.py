# SPDX-License-Identifier: Apache-2.0
"""Tests of watching; the programs that it starts are stand-ins."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.vitedge.devices.facts.boards import garbled, texts
from vitedge.devices.facts.watching import Sample, between, parse, script

SHELLS = [["dash"], ["bash"], ["busybox", "sh"]]
there = [pytest.param(shell, marks=pytest.mark.skipif(not shutil.which(shell[0]), reason=f"apt install {shell[0]}"))
         for shell in SHELLS]  # fmt: skip
ORIN = texts("jetson-orin-nano")


@pytest.fixture
def board(tmp_path: Path) -> Path:
    """A root folder and stand-ins for tegrastats and vcgencmd."""
    files = {
        "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": "1344000",
        "sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq": "1344000",
        "sys/devices/system/cpu/cpufreq/policy4/scaling_cur_freq": "729600",
        "sys/class/devfreq/17000000.gpu/cur_freq": "918000000",
        "sys/class/devfreq/17000000.gpu/max_freq": "918000000",
        "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
        "sys/class/thermal/thermal_zone0/temp": "99500",
        "sys/class/thermal/thermal_zone0/trip_point_0_type": "passive",
        "sys/class/thermal/thermal_zone0/trip_point_0_temp": "99000",
        "sys/class/thermal/thermal_zone0/trip_point_1_type": "active",
        "sys/class/thermal/thermal_zone0/trip_point_1_temp": "50000",
        "sys/class/thermal/cooling_device2/type": "cpu-throttle-alert",
        "sys/class/thermal/cooling_device2/cur_state": "1",
        "sys/class/hwmon/hwmon1/in1_label": "VDD_IN",
        "sys/class/hwmon/hwmon1/in1_input": "4984",
        "sys/class/hwmon/hwmon1/curr1_input": "1856",
        "sys/class/hwmon/hwmon3/oc3_event_cnt": "37",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    line = ORIN["tegrastats"].splitlines()[1]
    (tmp_path / "bin").mkdir()
    for name, body in {
        "tegrastats": f"echo $$ >>{tmp_path}/pid\nwhile :; do echo '{line}'; sleep 0.05; done",
        "vcgencmd": "echo throttled=0x50005",
    }.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    return tmp_path


def start(shell: list[str], board: Path, limit_s: float) -> subprocess.Popen[str]:
    """Starts the script, whose error output is among its lines."""
    return subprocess.Popen(
        [*shell, "-c", script(limit_s, 0.05, str(board))],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={"PATH": f"{board}/bin:/usr/bin:/bin"},
    )


def watched(shell: list[str], board: Path, limit_s: float) -> str:
    with start(shell, board, limit_s) as process:
        out, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    return out


def gone(board: Path) -> bool:
    """Whether the stand-in for tegrastats ends within five seconds; one that nobody has waited for yet has ended."""
    state = Path("/proc") / (board / "pid").read_text().strip() / "stat"
    for _ in range(100):
        try:
            if ") Z " in state.read_text():
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("shell", there)
def test_a_board_is_watched_until_the_time_is_up(shell: list[str], board: Path) -> None:
    out = watched(shell, board, 0.5)
    assert {row.partition(" ")[0] for row in out.splitlines()} == {".", "f", "t", "c0", "c1"}
    assert gone(board)
    samples = parse(out)
    assert [sample.time_s for sample in samples] == sorted(sample.time_s for sample in samples)
    from_files = [sample for sample in samples if "cpu0" in sample.clocks_mhz]
    assert len(from_files) >= 3
    assert from_files[1] == Sample(
        from_files[1].time_s,
        {"cpu0": 1344.0, "cpu4": 729.6, "gpu": 918.0},
        {"cpu0": 1344.0, "gpu": 918.0},
        {"thermal_zone0 cpu-thermal": 99.5},
        {"VDD_IN": pytest.approx(9.25, abs=0.001)},
        {"oc3_event_cnt": 37},
        (
            "the kernel cools with cpu-throttle-alert at step 1",
            "cpu-thermal is at its passive trip point of 99 degrees",
        ),
    )
    assert sum(sample.power_w.get("VDD_IN") == 16.321 for sample in samples) >= 3
    assert any("under-voltage of the supply" in sample.throttled for sample in samples)


@pytest.mark.parametrize("shell", there)
@pytest.mark.parametrize("lost", [False, True])
def test_nothing_is_left_when_it_is_ended_or_nobody_reads(shell: list[str], board: Path, *, lost: bool) -> None:
    with start(shell, board, 600) as process:
        assert process.stdout
        while not (board / "pid").exists():
            assert process.stdout.readline()
        if lost:  # as with a connection
            process.stdout.close()
        else:
            process.terminate()
        assert process.wait(timeout=5) != 0
    assert gone(board)


def test_nvidia_smi_is_watched_with_the_name_of_the_field_that_its_driver_knows(board: Path) -> None:
    (board / "bin" / "tegrastats").unlink()
    (board / "bin" / "nvidia-smi").write_text(
        "#!/bin/sh\n"
        'case "$*" in *clocks_event*) echo no field; exit 2;; *clocks_throttle*-lms*);; *) exit 1;; esac\n'
        "echo '0, 1980, 35, 119.78, 99, 0x0000000000000004'\necho '1, 345, 30, [N/A], 0, 0x0000000000000001'\n"
    )
    (board / "bin" / "nvidia-smi").chmod(0o755)
    out = watched(["sh"], board, 0.1)
    first, second = (sample for sample in parse(out) if set(sample.clocks_mhz) <= {"gpu", "gpu1"} and sample.clocks_mhz)
    assert (first.clocks_mhz, first.temperatures, first.power_w) == ({"gpu": 1980}, {"gpu": 35}, {"gpu": 119.78})
    assert first.throttled == ("the GPU is at its power limit",)
    assert (second.clocks_mhz, second.power_w, second.throttled) == ({"gpu1": 345}, {}, ())


def test_a_pi_tells_its_real_clock() -> None:
    samples = parse("c0 10.5 throttled=0x80008\nc1 10.6 frequency(48)=1500398464\nc2 11.0 Thermal Status: 2\nc9 1 x\n")
    assert samples[0].throttled == ("the soft temperature limit is reached",)
    assert samples[1].clocks_mhz == {"arm": pytest.approx(1500.398464)}
    assert samples[2].throttled == ("Android's thermal status is moderate",)
    assert between(samples, 10.6, 11.0) == samples[1:]


def test_garbled_readings_never_fail(board: Path) -> None:
    out = watched(["sh"], board, 0.1)
    for seed in range(30):
        for found in (parse(garbled(out, seed)), parse(out[: seed * 57])):
            times = [sample.time_s for sample in found]
            assert times == sorted(times)
