# SPDX-License-Identifier: Apache-2.0
"""The command line in a process of its own."""

from __future__ import annotations

import subprocess
import sys


def vitedge(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs one command; what it prints is kept as text."""
    return subprocess.run([sys.executable, "-m", "vitedge", *arguments], capture_output=True, text=True, check=False)
