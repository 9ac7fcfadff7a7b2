# SPDX-License-Identifier: Apache-2.0
"""The command line in a process of its own."""

from __future__ import annotations

import subprocess
import sys


def vitedge(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs one command; what it prints is kept as text."""
    return subprocess.run([sys.executable, "-m", "vitedge", *arguments], capture_output=True, text=True, check=False)


def check_mistake(arguments: list[str], sentence: str) -> None:
    """The command says one sentence on stderr and leaves with 2."""
    result = vitedge(*arguments)
    assert result.returncode == 2
    assert sentence in result.stderr
    assert result.stdout == ""
    assert result.stderr.splitlines()[-1].startswith("vitedge: ")  # progress may go before it
