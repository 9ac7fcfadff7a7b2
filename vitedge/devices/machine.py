# SPDX-License-Identifier: Apache-2.0
"""Facts about this machine, and its state while something is measured.

Every reading is best effort. Facts that a system does not offer are left out of the record; nothing here fails.
"""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from vitedge import registry

try:
    import resource
except ImportError:  # Windows has no such module
    resource = None  # type: ignore[assignment]

PACKAGES = ("vitedge", "numpy", "torch", "timm", "onnx", "onnxruntime", "coremltools")
ROOT = Path("/")


def identity(root: Path = ROOT) -> dict[str, Any]:
    """Returns the facts that do not change during a measurement: machine, processor, cores, memory, system, versions.

    Args:
        root: folder in which ``proc`` and ``sys`` are looked for.
    """
    facts: dict[str, Any] = {
        "model": _first(root, "proc/device-tree/model", "sys/class/dmi/id/product_name") or _sysctl("hw.model"),
        "processor": _processor(root),
        "architecture": platform.machine(),
        "cores": cores(root),
        "memory_mb": _memory_mb(root),
        "os": _operating_system(root),
        "kernel": platform.release(),
        "l4t": _read(root, "etc/nv_tegra_release").partition("\n")[0],
        "python": platform.python_version(),
        "versions": registry.versions(PACKAGES),
    }
    return {name: value for name, value in facts.items() if value}


def condition(root: Path = ROOT) -> dict[str, Any]:
    """Returns the facts that do change: load, governor, clocks in MHz, temperatures in degrees Celsius.

    Args:
        root: folder in which ``sys`` is looked for.
    """
    facts: dict[str, Any] = {
        "load_average": _load_average(),
        "governor": _first(root, "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "clocks_mhz": _clocks(root),
        "temperatures": _temperatures(root),
    }
    return {name: value for name, value in facts.items() if value}


def cores(root: Path = ROOT) -> int:
    """Returns the number of physical cores that this process may use, by its affinity and its container's quota.

    Args:
        root: folder in which ``sys`` is looked for.
    """
    try:
        allowed = sorted(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows do not have it
        return int(_sysctl("hw.physicalcpu") or os.cpu_count() or 1)
    twins = {
        _read(root, f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") or str(cpu) for cpu in allowed
    }
    return min(len(twins), processors(root))


def processors(root: Path = ROOT) -> int:
    """Returns the number of threads that can run at once here: logical processors, by affinity and container's quota.

    The quotas are those of control groups of version 2 (``cpu.max``) and 1 (``cpu.cfs_quota_us``), of the process' own
    group and of all around it; part of a processor counts as one.

    Args:
        root: folder in which ``proc`` and ``sys`` are looked for.
    """
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows do not have it
        allowed = os.cpu_count() or 1
    return max(1, min([allowed, *_quotas(root)]))


def _quotas(root: Path) -> Iterator[int]:
    """Yields the processors that each control group of this process may use, where it has a limit."""
    # Inside a container the process' group is mounted as the root of the tree, whatever its path says.
    places = [("sys/fs/cgroup", ""), ("sys/fs/cgroup/cpu", ""), ("sys/fs/cgroup/cpu,cpuacct", "")]
    for line in _read(root, "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers or "cpu" in controllers.split(","):
            places.append((f"sys/fs/cgroup/{controllers}".rstrip("/"), path.strip("/")))
    for mount, path in places:
        for group in (PurePosixPath(path), *PurePosixPath(path).parents):
            folder = f"{mount}/{group}"
            quota, _, period = _read(root, f"{folder}/cpu.max").partition(" ")
            if not quota:
                quota, period = (_read(root, f"{folder}/cpu.cfs_{name}_us") for name in ("quota", "period"))
            if quota.isdigit() and period.isdigit() and int(period):
                yield -(-int(quota) // int(period))


def _processor(root: Path) -> str:
    for line in _read(root, "proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in {"model name", "Model", "Hardware"}:
            return value.strip()
    return _sysctl("machdep.cpu.brand_string") or platform.processor()


def _memory_mb(root: Path) -> int:
    for line in _read(root, "proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024 // 10**6
    return int(_sysctl("hw.memsize") or 0) // 10**6


def _operating_system(root: Path) -> str:
    for line in _read(root, "etc/os-release").splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip('"')
    return platform.platform(terse=True)


def _load_average() -> list[float]:
    try:
        return [round(value, 2) for value in os.getloadavg()]
    except (AttributeError, OSError):  # Windows has none
        return []


def _clocks(root: Path) -> list[int]:
    """Returns the present clock of each core in MHz, in the order of their numbers."""
    return [_number(path) // 1000 for path in _glob(root, "sys/devices/system/cpu/cpu*/cpufreq/scaling_cur_freq")]


def _temperatures(root: Path) -> dict[str, float]:
    zones = {}
    for path in _glob(root, "sys/class/thermal/thermal_zone*/temp"):
        name = _read(path.parent, "type") or path.parent.name
        zones[f"{path.parent.name} {name}"] = _number(path) / 1000
    return zones


def _glob(root: Path, pattern: str) -> list[Path]:
    return sorted(root.glob(pattern), key=lambda path: (len(str(path)), str(path)))


def _number(path: Path) -> int:
    text = _read(path.parent, path.name)
    return int(text) if text.lstrip("-").isdigit() else 0


def _first(root: Path, *names: str) -> str:
    return next((text for text in (_read(root, name) for name in names) if text), "")


def _read(root: Path, name: str) -> str:
    """Returns the text of a file without surrounding blanks and NULs; empty where it cannot be read."""
    with contextlib.suppress(OSError, ValueError):
        return (root / name).read_text(encoding="utf-8", errors="replace").strip(" \t\r\n\0")
    return ""


def _sysctl(name: str) -> str:
    if sys.platform != "darwin":
        return ""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(
            ["/usr/sbin/sysctl", "-n", name], capture_output=True, text=True, timeout=5, check=True
        ).stdout.strip()
    return ""
