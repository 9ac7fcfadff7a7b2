# SPDX-License-Identifier: Apache-2.0
"""The processors that this process may use. A part of the runner."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

ROOT = Path("/")


def cores(root: Path = ROOT) -> int:
    """Returns the number of physical cores that this process may use, by its affinity and its container's quota.

    Args:
        root: folder in which ``sys`` is looked for.
    """
    if not hasattr(os, "sched_getaffinity"):  # macOS and Windows do not have it
        return int(_sysctl("hw.physicalcpu") or os.cpu_count() or 1)
    allowed = sorted(os.sched_getaffinity(0))
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
    # macOS and Windows do not have affinities.
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
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
