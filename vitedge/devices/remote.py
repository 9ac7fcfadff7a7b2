# SPDX-License-Identifier: Apache-2.0
"""A session with a device over a transport: a private folder there, files by content, and worker processes.

A file lies in the cache of the device under the SHA-256 of its content, so that a second session sends nothing. What a
session needs is linked into its own folder, which `vitedge.devices.guard` removes.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vitedge.devices import facts, runner
from vitedge.devices.facts import reading, watching
from vitedge.devices.guard import KILL_TREE, TIDY, Guard
from vitedge.devices.guarded import GuardedTransport
from vitedge.devices.interpreter import Interpreter, find_interpreter
from vitedge.devices.process import WorkerProcess
from vitedge.devices.session import Worker
from vitedge.devices.transports.transport import Completed, Transport, quoted
from vitedge.devices.trtexec.host import Host
from vitedge.devices.watcher import LIMIT_S, Watcher
from vitedge.errors import ConnectionLost, DeviceFailed, MissingBackend
from vitedge.files.digest import hash_file

CACHE_LIMIT_KB = 4 * 1024 * 1024
"""Size of a device's cache, beyond which the files that were used longest ago go."""
ATTEMPTS = 5
"""Times that something is tried again after the connection was lost."""
_UPLOAD_S = 600.0
_READING_S = 180.0
_OF_PYTHON = ("cores", "processors", "python", "versions", "providers", "broken")
"""Facts that the device's Python tells better: of its own packages, and of what a process may use."""


class RemoteSession:
    """See `vitedge.devices.session.Session`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._numbers = itertools.count(1)
        self._workers: list[WorkerProcess] = []
        self._linked: dict[str, str] = {}
        self._interpreter: Interpreter | None = None
        self._identity: dict[str, Any] = {}
        self._engines = Host(self._guarded())
        self._guard: Guard | None = None
        try:
            self._guard = Guard(transport)
        except BaseException:
            transport.close()
            raise

    @property
    def name(self) -> str:
        """The device as users write it."""
        return self._transport.name

    def _shell(self, script: str, limit_s: float = 60.0, given: bytes = b"") -> Completed:
        """Runs a script there in the session's folder; one that takes too long is ended there too.

        Raises:
            ConnectionLost: the connection ended before the script did.
            DeviceFailed: it did not end in time.
        """
        number = next(self._numbers)
        try:
            return self._transport.run(self._marked(script, number), limit_s, given)
        except ConnectionLost:
            raise
        except DeviceFailed:
            file = f"{self._folders().work}/{number}.pid"
            self._transport.run(f'{KILL_TREE}\n[ -f {quoted([file])} ] && kill_tree "$(cat {quoted([file])})"', 30.0)
            raise

    def push(self, path: Path) -> str:
        """Copies a folder, or a file with the weights beside it, to the device, what it does not have yet."""
        files = _parts(path)
        digests = {name: hash_file(file) for name, file in files.items()}
        key = " ".join(f"{name}={digest}" for name, digest in digests.items())
        if key not in self._linked:
            for name in self._missing(digests):
                self._upload(files[name], digests[name])
            self._linked[key] = self._link(digests)
        return f"{self._linked[key]}/{path.name}"

    def pull(self, name: str, path: Path) -> None:
        """Copies a file from the device."""
        self._transport.fetch(name, path)

    def start(self, label: str, patience_s: float, runtime: str = "") -> Worker:
        """Starts a process of the runner there, for one model; trtexec runs engines where Python has no TensorRT."""
        if runtime == "tensorrt" and self._refused(runtime) and not self._engines.refusal():
            return self._engines.worker(f"{self._folders().work}/{next(self._numbers)}", label, patience_s)
        program = self._python().program
        command = self._marked(quoted([program, "-u", self._runner(), "serve"]), next(self._numbers))
        worker = WorkerProcess(self._transport.command(command), label, patience_s, lost=self._transport.lost)
        self._workers.append(worker)
        return worker

    def _python(self) -> Interpreter:
        """Returns the Python of the device that models run in.

        Raises:
            MissingBackend: it has none that is new enough and has NumPy; with what to type there.
        """
        if self._interpreter is None:
            self._interpreter = find_interpreter(self._shell, self._runner(), self.name)
        return self._interpreter

    def refusal(self, runtime: str) -> str:
        """Returns why a runtime does not work there; empty where it does."""
        refused = self._refused(runtime)
        return self._engines.refusal() if refused and runtime == "tensorrt" else refused

    def identity(self) -> dict[str, Any]:
        """Returns the facts that do not change during a measurement."""
        if not self._identity:
            found = facts.identity(self._read(reading.IDENTITY))
            with contextlib.suppress(MissingBackend):
                asked = self._python().facts
                found.update({name: asked[name] for name in _OF_PYTHON if asked.get(name)})
            self._identity = {"device": self.name, **found}
        return dict(self._identity)

    def condition(self) -> dict[str, Any]:
        """Returns the facts that do change."""
        return facts.condition(self._read(reading.CONDITION))

    def cores(self) -> int:
        """Returns the number of physical cores that a process may use there."""
        return int(self.identity().get("cores") or self.processors())

    def processors(self) -> int:
        """Returns the number of threads of a process that can run at once there."""
        return int(self.identity().get("processors") or 1)

    def watch(self) -> Watcher:
        """Starts watching the device."""
        return Watcher(self._guarded().started(watching.script(LIMIT_S)))

    def _read(self, what: reading.Reading) -> Mapping[str, str]:
        token = secrets.token_hex(8)
        return reading.split(self._shell(reading.script(what, token, python=""), _READING_S).out, token)

    def _refused(self, runtime: str) -> str:
        """Returns why the device's Python does not run a runtime."""
        try:
            return self._python().refusal(runtime, self.name)
        except MissingBackend as missing:
            return str(missing)

    def _guarded(self) -> GuardedTransport:
        return GuardedTransport(self._transport, self._shell, lambda script: self._marked(script, next(self._numbers)))

    def reconnect(self) -> None:
        """Connects again after the connection was lost: a new folder there, and no worker.

        Raises:
            DeviceFailed: it stays out of reach.
        """
        self._leave()
        self._linked.clear()
        for attempt in range(ATTEMPTS):
            try:
                self._guard = Guard(self._transport)
                break
            except DeviceFailed:
                if attempt == ATTEMPTS - 1:
                    raise
                time.sleep(2.0**attempt)

    def close(self) -> None:
        """Ends the workers, and lets the guard remove what the session left there."""
        self._leave()
        self._transport.close()

    def _leave(self) -> None:
        while self._workers:
            self._workers.pop().kill()
        guard, self._guard = self._guard, None
        if guard is not None:
            guard.close()

    def _folders(self) -> Guard:
        """Returns the guard, which has the folders there.

        Raises:
            DeviceFailed: the session is closed.
        """
        if self._guard is None:
            raise DeviceFailed(f"The session with {self.name} is closed.")
        return self._guard

    def _marked(self, script: str, number: int) -> str:
        """Returns a script that runs in the session's folder, whose process the guard finds while it runs."""
        file = f"{number}.pid"
        begin = f'cd {quoted([self._folders().work])} || exit 72\necho "$$" >{file}\n(\n{script}\n)'
        return f"{begin}\ncode=$?\nrm -f {file}\nexit $code"

    def _runner(self) -> str:
        with tempfile.TemporaryDirectory(prefix="vitedge-") as folder:
            return self.push(runner.write(Path(folder) / runner.NAME))

    def _missing(self, digests: Mapping[str, str]) -> list[str]:
        """Returns the files whose content is not in the cache there, or is there and damaged."""
        names = sorted(set(digests.values()))
        script = f"cd {quoted([self._folders().cache])}/files && touch -c {quoted(names)}; {_hashes(names)}"
        there = {line.split()[0] for line in self._shell(script, _UPLOAD_S).out.splitlines() if line.strip()}
        return [name for name, digest in digests.items() if digest not in there]

    def _upload(self, file: Path, digest: str) -> None:
        """Sends a file; after a lost connection it goes on where that one ended."""
        partial, final = f"{self._folders().cache}/files/{digest}.part", f"{self._folders().cache}/files/{digest}"
        self._lasting(lambda: self._transport.send(file, partial), file)
        checked = self._shell(
            f"cd {quoted([self._folders().cache])}/files && {{ {_hashes([digest + '.part'])}; }} | grep -q ^{digest} "
            f"&& mv {quoted([partial, final])} || {{ rm -f {quoted([partial])}; exit 74; }}",
            _UPLOAD_S,
        )
        if checked.code:
            raise DeviceFailed(f"{file.name} did not reach {self.name} as it is here: try again.")

    def _lasting(self, send: Callable[[], None], file: Path) -> None:
        for attempt in range(ATTEMPTS):
            try:
                send()
                break
            except ConnectionLost:
                if attempt == ATTEMPTS - 1:
                    raise
                self.reconnect()
            except DeviceFailed as failed:
                raise self._without_room(file) or failed from failed

    def _without_room(self, file: Path) -> DeviceFailed | None:
        """Returns the error for a full disk, with how much is free; None where that is not the reason."""
        place = quoted([self._folders().cache])
        said = self._shell(f"df -Pk {place} | tail -n 1; rm -f {place}/files/*.part").out.split()
        free_kb = next((int(word) for word in said[3:4] if word.isdigit()), None)
        if free_kb is None or free_kb * 1024 > file.stat().st_size:
            return None
        return DeviceFailed(
            f"{self.name} has no room for {file.name}: it takes {file.stat().st_size / 1e6:.1f} MB, and "
            f"{free_kb * 1024 / 1e6:.1f} MB are free in {self._folders().cache}."
        )

    def _link(self, digests: Mapping[str, str]) -> str:
        """Makes a folder there in which the files have their names again."""
        folder = f"{self._folders().work}/{next(self._numbers)}"
        lines = [f"mkdir {quoted([folder])}"]
        lines += [f"mkdir -p {quoted([folder + '/' + parent])}" for parent in sorted(_folders(digests))]
        for name, digest in digests.items():
            pair = quoted([f"{self._folders().cache}/files/{digest}", f"{folder}/{name}"])
            lines.append(f"ln {pair} 2>/dev/null || cp {pair}")
        done = self._shell(" && ".join(f"{{ {line}; }}" for line in lines), _UPLOAD_S)
        if done.code:
            raise DeviceFailed(f"{self.name} could not make a folder for the model: {done.last_words}.")
        limit = TIDY.format(files=quoted([f"{self._folders().cache}/files"]), limit_kb=CACHE_LIMIT_KB)
        self._shell(limit)
        return folder


def _parts(path: Path) -> dict[str, Path]:
    """Returns the files of a model: names relative to the folder that it lies in, to where they are here."""
    if path.is_dir():
        found = sorted(file for file in path.rglob("*") if file.is_file())
        return {file.relative_to(path.parent).as_posix(): file for file in found}
    beside = (path.with_name(path.name + suffix) for suffix in (".data", "_data"))
    return {file.name: file for file in (path, *beside) if file.is_file()}


def _folders(names: Mapping[str, str]) -> set[str]:
    return {os.path.dirname(name) for name in names if "/" in name}


def _hashes(names: list[str]) -> str:
    """Returns a command that prints the SHA-256 of those files that are there, by whichever program there is."""
    listed = quoted(names)
    return f"if command -v sha256sum >/dev/null; then sha256sum {listed}; else shasum -a 256 {listed}; fi 2>/dev/null"
