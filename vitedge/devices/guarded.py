# SPDX-License-Identifier: Apache-2.0
"""A transport whose scripts a session's guard finds, so that it ends them whatever ends the session."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from vitedge.devices.transports.transport import Completed, Transport
from vitedge.errors import DeviceFailed


class GuardedTransport:
    """See `vitedge.devices.transports.transport.Transport`.

    Args:
        transport: the way to the device.
        run: that of the session, which marks a script and ends it there when its time is up.
        marked: the session's, which makes a script of one that the guard finds.
    """

    def __init__(
        self, transport: Transport, run: Callable[[str, float, bytes], Completed], marked: Callable[[str], str]
    ) -> None:
        self.name = transport.name
        self._transport = transport
        self._run = run
        self._marked = marked

    def run(self, script: str, limit_s: float = 60.0, given: bytes = b"") -> Completed:
        """Runs a script there and waits for its end."""
        return self._run(script, limit_s, given)

    def command(self, script: str) -> list[str]:
        """Returns the command of this machine whose streams are those of a script there."""
        return self._transport.command(self._marked(script))

    def started(self, script: str) -> subprocess.Popen[bytes]:
        """Starts a script there with pipes for its streams."""
        return self._transport.started(self._marked(script))

    def send(self, path: Path, there: str) -> None:
        """Appends to the file there what it lacks."""
        self._transport.send(path, there)

    def fetch(self, there: str, path: Path) -> None:
        """Writes the file here with the content of the one there."""
        self._transport.fetch(there, path)

    def lost(self, code: int, said: str) -> DeviceFailed | None:
        """Returns the error for a connection that failed; None where the script ended by itself."""
        return self._transport.lost(code, said)

    def close(self) -> None:
        """Does nothing: the session closes its connection."""
