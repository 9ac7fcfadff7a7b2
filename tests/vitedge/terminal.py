# SPDX-License-Identifier: Apache-2.0
"""A terminal of this machine that a process runs in, and what it shows."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Mapping


def run(script: str, columns: int, **environment: str) -> tuple[int, str]:
    """Runs Python in a terminal of so many columns; returns its exit code and all that it wrote, with its escapes."""
    return run_command([sys.executable, "-c", script], columns, environment)


def run_command(command: list[str], columns: int, environment: Mapping[str, str]) -> tuple[int, str]:
    """Runs a command in a terminal, as `run`."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    unset = ("NO_COLOR", "COLUMNS", "LINES", "FORCE_COLOR", "TTY_COMPATIBLE", "CI")
    inherited = {name: value for name, value in os.environ.items() if name not in unset}
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env={**inherited, "TERM": "xterm", **environment}
    )
    os.close(theirs)
    parts = []
    try:
        while part := os.read(ours, 65536):
            parts.append(part)
    except OSError:  # Linux's way to say that the other end is closed
        pass
    finally:
        os.close(ours)
    return process.wait(timeout=60), b"".join(parts).decode()
