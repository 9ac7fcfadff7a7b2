# SPDX-License-Identifier: Apache-2.0
"""The peak memory of this process. A part of the runner."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

try:
    import resource
except ImportError:  # Windows has no such module
    resource = None  # type: ignore[assignment]


def peak_memory_mb(status: Path = Path("/proc/self/status")) -> float:
    """Returns the largest resident memory that this process has had, in 10^6 bytes; NaN where no system tells.

    Args:
        status: the file in which Linux tells of a process.
    """
    # On Linux before getrusage, which shows a young process its parent's peak.
    with contextlib.suppress(OSError, ValueError):
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    if resource is None or sys.platform == "win32":
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if sys.platform == "darwin" else peak * 1024) / 1e6
