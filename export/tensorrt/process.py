# SPDX-License-Identifier: Apache-2.0
"""The parent's end of a process that builds one engine, or reads one file: see `vitedge.export.tensorrt.child`."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, Any

from vitedge import errors
from vitedge.errors import CheckFailed, VitedgeError
from vitedge.export.tensorrt import child
from vitedge.export.tensorrt.request import BuiltEngine, EngineRequest
from vitedge.files.plain import from_dict, to_dict
from vitedge.registry import Part
from vitedge.sentences import fate


class BuilderProcess(contextlib.AbstractContextManager["BuilderProcess"]):
    """A process for one request; it is ended with the block, whatever happened in it.

    Args:
        part: the module that does the work, of a table of builders or parsers.
        request: what it builds or reads.
    """

    def __init__(self, part: Part, request: EngineRequest) -> None:
        self._part = part
        self._request = request
        self._deadline = time.monotonic() + request.limit_s
        self._words = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        search = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        self._process = subprocess.Popen(
            [sys.executable, "-m", child.__name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._words,
            env={**os.environ, "PYTHONPATH": search},
            start_new_session=True,  # Ctrl-C reaches the command alone, which then ends its children
        )
        self._answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._listener = threading.Thread(target=self._listen, args=(self._process.stdout,), daemon=True)
        self._listener.start()

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._listener.join()
        for stream in (self._process.stdin, self._process.stdout, self._words):
            if stream is not None:
                with contextlib.suppress(OSError):  # an order that was not sent, to a process that is gone
                    stream.close()

    def result(self, function: str, place: Path | None = None) -> BuiltEngine | None:
        """Has a function work on the request, and passes the phases on meanwhile.

        Args:
            function: name of a function of the part's module.
            place: where the engine's bytes are written, if the function builds.

        Returns:
            What the function says of the engine; None where it only reads.

        Raises:
            VitedgeError: what the function raised, of the same class.
            CheckFailed: the process ended without an answer, or the time is over.
        """
        request = self._request
        order = child.Order(
            title=self._part.title,
            module=self._part.module,
            install=self._part.install,
            function=function,
            onnx=str(request.onnx),
            place=str(place or ""),
            targets=request.targets,
            shapes=request.shapes,
            options=request.options,
        )
        self._send(order)
        while True:
            answer = self._answer()
            if "built" in answer:
                return None if answer["built"] is None else from_dict(BuiltEngine, answer["built"])
            if "error" in answer:
                raise _error(answer["error"], answer["message"])
            request.progress(answer["phase"])

    def _send(self, order: child.Order) -> None:
        stream: Any = self._process.stdin
        with contextlib.suppress(OSError):  # the process has ended, and `_answer` tells how
            stream.write(json.dumps(to_dict(order)).encode() + b"\n")
            stream.flush()

    def _answer(self) -> dict[str, Any]:
        try:
            line = self._answers.get(timeout=max(self._deadline - time.monotonic(), 0.0))
        except queue.Empty:
            limit = f"{self._request.limit_s:g} s"
            raise CheckFailed(
                f"{self._part.title} was not done with {self._request.onnx} within {limit}, and was ended."
            ) from None
        if not line:
            end = fate(self._process.wait())
            raise CheckFailed(
                f"{self._part.title}: its process {end} while it worked on {self._request.onnx}{self._last()}."
            )
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _listen(self, stream: IO[bytes]) -> None:
        for line in stream:
            self._answers.put(line)
        self._answers.put(b"")

    def _last(self) -> str:
        """Returns the last line that the process printed, in brackets."""
        self._words.seek(0)
        lines = [line.strip() for line in self._words.read().decode(errors="replace").splitlines() if line.strip()]
        return f" ({lines[-1].rstrip('.')})" if lines else ""


def _error(name: str, message: str) -> VitedgeError:
    kind = getattr(errors, name, CheckFailed)
    found: VitedgeError = kind(message)
    return found
