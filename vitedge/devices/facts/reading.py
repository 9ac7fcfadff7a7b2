# SPDX-License-Identifier: Apache-2.0
"""Which files and commands tell what a device is and how it is, and the texts of them, read there or on this machine.

A board may have no Python, so that it is asked by one script of POSIX sh; this machine, which may have no sh, is read
by Python. Both give the same mapping: a file's path or a command's line, to its text without surrounding blanks.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vitedge import registry
from vitedge.devices.transports.transport import quoted

ROOT = Path("/")
COMMAND_S = 10
"""Seconds that one command may take."""
PYTHON_S = 90
"""Seconds that Python may take: a board reads its libraries from an SD card."""
PLACES = (
    "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/local/cuda/bin", "/usr/src/tensorrt/bin", "/opt/vc/bin",
    "/system/bin",
)  # fmt: skip
"""Folders of the programs below that the PATH of a shell without login lacks."""
BLANKS = " \t\r\n\0"
PACKAGES = ("vitedge", "numpy", "torch", "timm", "onnx", "onnxruntime", "coremltools", "openvino", "tensorrt")

SYSTEM = ("uname", "-sr")
MACHINE = ("uname", "-m")
GPU = ("nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader,nounits")
CAPABILITY = ("nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader,nounits")
GPU_NOW = (
    "nvidia-smi",
    "--query-gpu=clocks.sm,clocks.max.sm,clocks.mem,temperature.gpu,power.draw,power.limit",
    "--format=csv,noheader,nounits",
)
PYTHON = "python"
"""Key of what `python_versions` writes."""
PROGRAM = Path(__file__).with_name("python_versions.py")


@dataclass(frozen=True)
class Reading:
    """What is read in one go. What a device does not have is left out of the result."""

    files: tuple[str, ...]
    """Paths, with the patterns that sh and `glob` share."""
    commands: tuple[tuple[str, ...], ...]
    """Programs with their arguments. One that begins with ``sudo -n`` is run where the program behind it exists."""
    python: bool = False
    """Whether Python is asked for the versions of its packages, under the key `PYTHON`."""


IDENTITY = Reading(
    files=(
        "/proc/device-tree/model",
        "/proc/device-tree/compatible",
        "/sys/class/dmi/id/product_name",
        "/proc/cpuinfo",
        "/proc/meminfo",
        "/etc/os-release",
        "/etc/nv_tegra_release",
        "/usr/local/cuda/version.json",
        "/usr/local/cuda/version.txt",
        "/sys/devices/system/cpu/cpu[0-9]*/topology/thread_siblings_list",
        "/sys/devices/system/cpu/cpu[0-9]*/cpufreq/cpuinfo_max_freq",
    ),
    commands=(
        SYSTEM,
        MACHINE,
        ("sw_vers",),
        ("sysctl", "hw.model", "hw.memsize", "hw.physicalcpu", "hw.logicalcpu", "hw.optional", "machdep.cpu"),
        # One property at a time: the whole list has serial numbers.
        ("getprop", "ro.product.manufacturer"),
        ("getprop", "ro.product.model"),
        ("getprop", "ro.soc.model"),
        ("getprop", "ro.board.platform"),
        ("getprop", "ro.build.version.release"),
        ("getprop", "ro.build.version.sdk"),
        GPU,
        CAPABILITY,
        ("nvcc", "--version"),
        ("dpkg-query", "-W", "-f", "${Package} ${Version}\\n", "libnvinfer[0-9]*", "nvidia-l4t-core", "nvidia-jetpack"),
        ("ls", "-d", "/usr/src/tensorrt/bin/trtexec", "/usr/local/bin/trtexec", "/usr/bin/trtexec"),
    ),
    python=True,
)

CONDITION = Reading(
    files=(
        "/proc/loadavg",
        "/proc/uptime",
        "/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq",
        "/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_max_freq",
        "/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_min_freq",
        "/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor",
        "/sys/devices/system/cpu/cpu0/cpufreq/scaling_driver",
        "/sys/devices/system/cpu/cpu0/thermal_throttle/*_throttle_count",
        "/sys/class/devfreq/*/cur_freq",
        "/sys/class/devfreq/*/max_freq",
        "/sys/class/devfreq/*/min_freq",
        "/sys/class/thermal/thermal_zone[0-9]*/type",
        "/sys/class/thermal/thermal_zone[0-9]*/temp",
        "/sys/class/thermal/cooling_device[0-9]*/type",
        "/sys/class/thermal/cooling_device[0-9]*/cur_state",
        "/sys/class/hwmon/hwmon[0-9]*/oc[0-9]_event_cnt",
        "/sys/devices/platform/soc*/*firmware/get_throttled",
    ),
    commands=(
        ("nvpmodel", "-q"),
        ("jetson_clocks", "--show"),
        ("sudo", "-n", "jetson_clocks", "--show"),
        GPU_NOW,
        # Drivers before 535 know the second name alone; newer ones warn of it or know the first alone.
        ("nvidia-smi", "--query-gpu=clocks_event_reasons.active", "--format=csv,noheader"),
        ("nvidia-smi", "--query-gpu=clocks_throttle_reasons.active", "--format=csv,noheader"),
        ("vcgencmd", "get_throttled"),
        ("vcgencmd", "measure_temp"),
        ("vcgencmd", "measure_clock", "arm"),
        ("dumpsys", "thermalservice"),
        ("sysctl", "vm.loadavg"),
        ("pmset", "-g", "therm"),
        ("notifyutil", "-g", "com.apple.system.thermalpressurelevel"),
    ),
)


def line(command: Sequence[str]) -> str:
    """Returns the key of a command: its words as one line of sh."""
    return quoted(command)


def script(reading: Reading, token: str, root: str = "", python: str = "python3") -> str:
    """Returns the text of sh that writes every text behind a line with the token, for `split`.

    Args:
        reading: what is read.
        token: letters and digits that no text has.
        root: folder that stands for ``/`` in the paths of files.
        python: interpreter that is asked for its packages' versions; empty asks none.
    """
    places = " ".join(f"{quoted([root])}{pattern}" for pattern in reading.files)
    commands = list(map(_guarded, reading.commands))
    if reading.python and python:
        asked = [python, "-c", PROGRAM.read_text(encoding="utf-8")]
        commands.append(_guarded(asked, PYTHON, "$patience"))
    return "\n".join(
        [
            "export LC_ALL=C",
            f'PATH="$PATH:{":".join(PLACES)}"',
            f"root={quoted([root])}",
            "limit= patience=",
            f"if timeout {COMMAND_S} true 2>/dev/null; then",
            f"  limit='timeout {COMMAND_S}' patience='timeout {PYTHON_S}'",
            "fi",
            'there() { command -v "$1" >/dev/null 2>&1; }',
            f"mark() {{ printf '\\n%s %s\\n' {quoted([token])} \"$1\"; }}",
            f"for f in {places}; do",
            '  if [ -f "$f" ] && [ -r "$f" ]; then mark "${f#"$root"}"; cat "$f" 2>/dev/null; fi',
            "done",
            *commands,
            "mark end",
            "",
        ]
    )


def _guarded(command: Sequence[str], key: str = "", limit: str = "$limit") -> str:
    """Returns the line of sh that runs a command where its programs exist."""
    words = list(command)
    programs = [words[0], words[2]] if words[:2] == ["sudo", "-n"] else words[:1]
    there = " && ".join(f"there {quoted([program])}" for program in programs)
    marked = quoted([key or line(command)])
    return f"if {there}; then mark {marked}; {limit} {line(command)} </dev/null 2>/dev/null; fi"


def split(output: str, token: str) -> Mapping[str, str]:
    """Returns the texts that a `script` wrote; whatever stands before the first mark is not of it.

    Args:
        output: its standard output.
        token: the one that the script was made with.
    """
    texts: dict[str, str] = {}
    key = ""
    lines: list[str] = []
    for text in output.split("\n"):
        if text.startswith(f"{token} "):
            _keep(texts, key, "\n".join(lines))
            key, lines = text[len(token) + 1 :].rstrip("\r"), []
        else:
            lines.append(text)
    return texts  # behind the last mark, ``end``, there is nothing; without it the last text may be cut short


def local(reading: Reading, root: Path = ROOT, python: str = "") -> Mapping[str, str]:
    """Returns the same texts of this machine.

    Args:
        reading: what is read.
        root: folder in which the files are looked for; commands are run only where it is the real one.
        python: interpreter that is asked for its packages; empty tells of this process', whose packages are not
            imported, so that ONNX Runtime's providers are not among the facts.
    """
    texts: dict[str, str] = {}
    for pattern in reading.files:
        for path in root.glob(pattern.lstrip("/")):
            with contextlib.suppress(OSError):
                if path.is_file():
                    text = path.read_bytes().decode("utf-8", errors="replace")
                    _keep(texts, f"/{path.relative_to(root).as_posix()}", text)
    search = os.pathsep.join((os.environ.get("PATH", ""), *PLACES))
    for command in reading.commands if root == ROOT else ():
        _keep(texts, line(command), _run(command, search))
    if SYSTEM in reading.commands:  # Windows has no such command
        _keep(texts, line(SYSTEM), f"{platform.system()} {platform.release()}")
        _keep(texts, line(MACHINE), platform.machine())
    if reading.python:
        asked = _run((python, "-c", PROGRAM.read_text(encoding="utf-8")), search, PYTHON_S) if python else ""
        _keep(texts, PYTHON, asked or _own_versions())
    return texts


def _keep(texts: dict[str, str], key: str, text: str) -> None:
    if key and text.strip(BLANKS):
        texts[key] = text.replace("\r\n", "\n").strip(BLANKS)


def _run(command: Sequence[str], search: str, limit_s: int | None = None) -> str:
    """Returns what a command writes to its standard output, whatever its exit code; empty where it cannot be run."""
    words = list(command)
    program = shutil.which(words[0], path=search)
    behind = words[2] if words[:2] == ["sudo", "-n"] else words[0]
    if program is None or shutil.which(behind, path=search) is None:
        return ""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(
            [program, *words[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=limit_s or COMMAND_S,
            check=False,
            env={**os.environ, "LC_ALL": "C", "PATH": search},
        ).stdout.decode("utf-8", errors="replace")
    return ""


def _own_versions() -> str:
    return json.dumps({"python": platform.python_version(), "versions": registry.versions(PACKAGES)})
