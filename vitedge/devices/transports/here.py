# SPDX-License-Identifier: Apache-2.0
"""This machine by its own shell, for what a guard has to restore here too."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from vitedge.devices.transports.transport import Completed
from vitedge.errors import DeviceFailed


class Transport:
    """See `vitedge.devices.transports.transport.Transport`."""

    name = "local"

    def run(self, script: str, limit_s: float = 60.0, given: bytes = b"") -> Completed:
        """Runs a script and waits for its end."""
        try:
            done = subprocess.run(self.command(script), input=given, capture_output=True, timeout=limit_s, check=False)
        except subprocess.TimeoutExpired:
            raise DeviceFailed(f"A command of this machine did not end within {limit_s:g} s.") from None
        return Completed(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))

    def command(self, script: str) -> list[str]:
        """Returns the command of a script."""
        return ["sh", "-c", script]

    def started(self, script: str) -> subprocess.Popen[bytes]:
        """Starts a script with pipes for its streams."""
        pipe = subprocess.PIPE
        return subprocess.Popen(self.command(script), stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True)

    def send(self, path: Path, there: str) -> None:
        """Copies a file."""
        shutil.copyfile(path, there)

    def fetch(self, there: str, path: Path) -> None:
        """Copies a file."""
        shutil.copyfile(there, path)

    def lost(self, code: int, said: str) -> DeviceFailed | None:
        """Returns None: there is no connection that could fail."""
        del code, said
        return None

    def close(self) -> None:
        """Does nothing."""
