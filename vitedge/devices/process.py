# SPDX-License-Identifier: Apache-2.0
"""The parent's end of a worker process: a `vitedge.devices.session.Worker` behind the standard streams of a command.

The command is the worker itself, or a client such as ssh that hands its streams through to a worker elsewhere. It is a
process of its own because a native crash must not take the command line with it, because peak memory belongs to a
process, and because two libraries in one process disturb each other's threads.
"""

from __future__ import annotations

import json
import queue
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vitedge import errors
from vitedge.devices.session import REQUESTS
from vitedge.errors import DeviceFailed, VitedgeError
from vitedge.sentences import fate


class WorkerProcess:
    """A child process that loads one model, runs it when asked to, and blocks on its pipe otherwise.

    Args:
        command: the program and its arguments, started without a shell.
        label: the model's name in sentences.
        patience_s: seconds that an answer may take before the child is ended.
        environment: of the child; None is that of this process.
        lost: of a client: takes its exit code and what it said; returns the error for a connection that failed, or
            None where it did not.
        mark: end of the last line that is not the worker's yet; empty where all of them are.
    """

    def __init__(
        self,
        command: Sequence[str],
        label: str,
        patience_s: float,
        environment: Mapping[str, str] | None = None,
        lost: Callable[[int, str], DeviceFailed | None] | None = None,
        mark: str = "",
    ) -> None:
        self._label = label
        self._patience_s = patience_s
        self._lost = lost
        self._mark = mark.encode()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by kill()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
            start_new_session=True,  # Ctrl-C reaches the command alone, which then ends its children
        )
        self._replies: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Sends one request and waits for its answer.

        Args:
            do: one of `vitedge.devices.session.REQUESTS`.
            **arguments: its arguments, plain JSON values.

        Raises:
            VitedgeError: an error that the child raised, of the same class.
            DeviceFailed: the child died, failed in another way, or stayed silent too long.
        """
        try:
            self._pipe().write(json.dumps({"do": do, **arguments}).encode() + b"\n")
            self._pipe().flush()
            line = self._replies.get(timeout=self._patience_s)
        except OSError:
            line = b""  # the child has ended; its exit code is read below
        except queue.Empty:
            raise DeviceFailed(
                f"{self._label} gave no answer for {self._patience_s:g} s while {REQUESTS[do]}; it was ended."
            ) from None
        if not line:
            raise self._ended(self._process.wait(), do)
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise self._error(answer, do, arguments.get("model", {}).get("source", ""))
        return answer

    def kill(self) -> None:
        """Ends the child in whatever state it is, and closes its streams."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except OSError:
                    continue  # an unsent request to a child that is gone
        self._log.close()

    def _pipe(self) -> Any:
        return self._process.stdin

    def _listen(self) -> None:
        stream = self._process.stdout
        begun = not self._mark
        try:
            for line in stream or ():
                if not line.endswith(b"\n"):
                    break  # the end of an answer that was cut off
                if begun:
                    self._replies.put(line)
                begun = begun or line.rstrip().endswith(self._mark)
        except ValueError:
            return  # closed from the other thread: nobody waits any more
        self._replies.put(b"")

    def _error(self, answer: dict[str, Any], do: str, source: str) -> VitedgeError:
        kind, message = getattr(errors, answer["error"], None), str(answer["message"])
        if self._lost is not None and source:  # the path of a file there, which is gone with the session, says nothing
            message = message.replace(source, self._label)
        if isinstance(kind, type) and issubclass(kind, VitedgeError):
            return kind(message)
        return DeviceFailed(f"{self._label} failed while {REQUESTS[do]}: {answer['error']}: {message}.")

    def _ended(self, code: int, do: str) -> DeviceFailed:
        failed = self._lost(code, self._said()) if self._lost else None
        if failed is not None:
            return failed
        return DeviceFailed(f"{self._label}: its process {fate(code)} while {REQUESTS[do]}{self._last_words()}.")

    def _last_words(self) -> str:
        lines = [line for line in self._said().splitlines() if line.strip()]
        return f" ({lines[-1].strip()})" if lines else ""

    def _said(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace")
