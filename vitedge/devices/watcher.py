# SPDX-License-Identifier: Apache-2.0
"""A device that is watched while something is measured on it: the readings of its script, as they come."""

from __future__ import annotations

import contextlib
import subprocess
import threading

from vitedge.devices.facts.watching import Sample, parse
from vitedge.devices.transports.transport import after_mark

LIMIT_S = 4 * 3600.0
"""Seconds after which the script of a watch ends by itself."""
INTERVAL_S = 0.5
"""Seconds between readings: each takes a processor for a millisecond or more."""
_LEAVE_S = 5.0


class Watcher:
    """The readings of one script; of a machine without one, none.

    Args:
        process: a script of `vitedge.devices.facts.watching`, with a pipe for its output; None where there is none.
    """

    def __init__(self, process: subprocess.Popen[bytes] | None) -> None:
        self._process = process
        self._text = bytearray()
        if process is not None:
            threading.Thread(target=self._listen, daemon=True).start()

    def all(self) -> tuple[Sample, ...]:
        """Returns every reading so far."""
        return parse(after_mark(bytes(self._text).decode(errors="replace")))

    def close(self) -> None:
        """Ends the script."""
        if self._process is None:
            return
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_LEAVE_S)
        self._process.kill()
        self._process.wait()
        if self._process.stderr is not None:
            self._process.stderr.close()

    def _listen(self) -> None:
        stream = self._process.stdout if self._process is not None else None
        with contextlib.suppress(OSError, ValueError):  # closed from the other thread
            while stream is not None and (piece := stream.read1()):  # type: ignore[attr-defined]
                self._text += piece
