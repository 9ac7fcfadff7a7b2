# SPDX-License-Identifier: Apache-2.0
"""The protocol of a way to a device: shell scripts run there, and files go there and back.

A kind of remote device is one module with a class that does this; `vitedge.devices.remote` makes a session of it.
Scripts are POSIX sh, for a board may have nothing more. Nothing of a user's is put into a script but by `quoted`.
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from vitedge.errors import DeviceFailed

MARK = "vitedge: the script begins"
"""The line after which what a script prints is its own."""


@dataclass(frozen=True)
class Completed:
    """What a script left when it ended."""

    code: int
    """Its exit code; that of a script killed by signal N is 128 + N."""
    out: str
    err: str

    @property
    def last_words(self) -> str:
        """The last line of the error output that is not empty, or of the output where there is none."""
        lines = [line.strip() for text in (self.out, self.err) for line in text.splitlines() if line.strip()]
        return lines[-1] if lines else "it said nothing"


class Transport(Protocol):
    """A way to one device. Every method raises DeviceFailed where the device is out of reach."""

    name: str
    """The device as users write it, such as ``ssh:orin``."""

    def run(self, script: str, limit_s: float = 60.0, given: bytes = b"") -> Completed:
        """Runs a script of POSIX sh there and waits for its end, whatever its exit code.

        Args:
            script: the text; arguments in it went through `quoted`.
            limit_s: seconds after which it is ended.
            given: its standard input.

        Raises:
            ConnectionLost: the connection ended before the script did.
            DeviceFailed: it did not end in time.
        """
        ...

    def command(self, script: str) -> list[str]:
        """Returns the program and arguments of this machine whose standard streams are those of a script there."""
        ...

    def started(self, script: str) -> subprocess.Popen[bytes]:
        """Starts a script there with pipes for all of its standard streams, and does not wait for it."""
        ...

    def send(self, path: Path, there: str) -> None:
        """Appends to the file ``there`` what it lacks of the file ``path``: it holds its beginning, or nothing."""
        ...

    def fetch(self, there: str, path: Path) -> None:
        """Writes the file ``path`` with the content of ``there``."""
        ...

    def lost(self, code: int, said: str) -> DeviceFailed | None:
        """Returns the error for a connection that failed; None where the script itself ended with that code.

        Args:
            code: exit code of the client, as `started` and `command` have it.
            said: its error output.
        """
        ...

    def close(self) -> None:
        """Ends the connection."""
        ...


def quoted(words: Iterable[str]) -> str:
    """Returns words as one line of sh in which each stays one word, whatever characters it holds."""
    return " ".join(shlex.quote(word) for word in words)


def announced(script: str) -> str:
    """Returns a script that prints `MARK` first: a start-up file of the user's shell may have printed before it."""
    return f"echo {quoted([MARK])}\n{script}"


def after_mark(output: str) -> str:
    """Returns what an announced script itself printed; all of it where it did not begin."""
    _, mark, own = output.partition(f"{MARK}\n")
    return own if mark else output
