# SPDX-License-Identifier: Apache-2.0
"""A session with a device over a transport: a private folder there, files by content, and worker processes.

A file lies in the cache of the device under the SHA-256 of its content, so that a second session sends nothing. What a
session needs is linked into its own folder, which `vitedge.devices.guard` removes.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import secrets
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vitedge.devices import clocks, facts, runner
from vitedge.devices.facts import reading, watching
from vitedge.devices.guard import PROCESSES, TIDY, Guard
from vitedge.devices.guarded import GuardedTransport
from vitedge.devices.health.names import ABSENT
from vitedge.devices.health.outcomes import LIMIT_S as TRIALS_S
from vitedge.devices.health.outcomes import TRTEXEC, Outcome, of_trtexec, outcomes
from vitedge.devices.interpreter import Interpreter, find_interpreter
from vitedge.devices.process import WorkerProcess
from vitedge.devices.session import Worker
from vitedge.devices.transports.transport import MARK, Completed, Transport, announced, quoted
from vitedge.devices.trtexec.building import build as build_engine
from vitedge.devices.trtexec.host import Host
from vitedge.devices.watcher import INTERVAL_S, LIMIT_S, Watcher
from vitedge.errors import ConnectionLost, DeviceFailed, MissingBackend
from vitedge.export.tensorrt.records import EngineRecord
from vitedge.export.tensorrt.request import EngineRequest
from vitedge.files.digest import hash_file

CACHE_LIMIT_KB = 4 * 1024 * 1024
"""Size of a device's cache, beyond which the files that were used longest ago go."""
ATTEMPTS = 5
"""Times that something is tried again after the connection was lost."""
_UPLOAD_S = 600.0
_READING_S = 180.0
_OF_PYTHON = (
    "cores", "processors", "python", "program", "versions", "providers", "broken", "distributions", "managed",
)  # fmt: skip
"""Facts that the device's Python tells better: of its own packages, and of what a process may use."""
_GONE = 72
"""Exit code of a script that no longer finds the session's folder: the guard took the session for dead."""


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
        self._before = ""  # the folder of the session there that was left last
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
            done = self._transport.run(self._noted(script, number), limit_s, given)
        except ConnectionLost:
            raise
        except DeviceFailed:
            file = quoted([f"{self._folders().work}/{number}.pid"])
            with contextlib.suppress(DeviceFailed):
                self._transport.run(f"{PROCESSES}\nend_noted {file}; rm -f {file}", 30.0)
            raise
        if done.code == _GONE:  # a connection that failed has raised: of a client, 0 may be the code of that
            raise self._ended_there()
        return done

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

    def build(self, request: EngineRequest) -> tuple[EngineRecord, tuple[str, ...]]:
        """Builds an engine there with the device's trtexec, and fetches it."""
        folder = f"{self._folders().work}/{next(self._numbers)}"
        built = build_engine(self._guarded(), request, folder, self.push(request.onnx))
        self.pull(built.path, request.out)
        return built.record, built.warnings

    def pull(self, name: str, path: Path) -> None:
        """Copies a file from the device."""
        self._transport.fetch(name, path)

    def start(self, label: str, patience_s: float, runtime: str = "") -> Worker:
        """Starts a process of the runner there, for one model; trtexec runs engines where Python has no TensorRT."""
        if runtime == "tensorrt" and self._refused(runtime) and not self._engines.refusal():
            return self._engines.worker(f"{self._folders().work}/{next(self._numbers)}", label, patience_s)
        program = self._python().program
        script = self._noted(quoted([program, "-u", self._runner(), "serve"]), next(self._numbers))
        command = self._transport.command(announced(script))
        worker = WorkerProcess(command, label, patience_s, lost=self._lost, mark=MARK)
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

    def tried(self, names: Sequence[str]) -> Mapping[str, Outcome]:
        """Tries what models need there, in processes of their own."""
        found: dict[str, Outcome] = {}
        in_python = [name for name in names if name != TRTEXEC]
        try:
            command = [self._python().program, self._runner(), "try"]
            found = outcomes(in_python, lambda left: self._shell(quoted([*command, *left]), TRIALS_S))
        except MissingBackend as missing:
            found = {name: Outcome(name, ABSENT, error=str(missing)) for name in in_python}
        if TRTEXEC in names:
            refused = self._engines.refusal()
            is_there = " has no trtexec" not in refused
            found[TRTEXEC] = of_trtexec(self._engines.version, refused, is_there=is_there)
        return found

    def condition(self) -> dict[str, Any]:
        """Returns the facts that do change."""
        return facts.condition(self._read(reading.CONDITION))

    def cores(self) -> int:
        """Returns the number of physical cores that a process may use there."""
        return int(self.identity().get("cores") or self.processors())

    def processors(self) -> int:
        """Returns the number of threads of a process that can run at once there."""
        return int(self.identity().get("processors") or 1)

    def lock_clocks(self) -> tuple[str, ...]:
        """Locks the device's clocks; the guard restores them."""
        return clocks.lock(self._shell, self.name)

    def watch(self) -> Watcher:
        """Starts watching the device."""
        return Watcher(self._guarded().started(announced(watching.script(LIMIT_S, INTERVAL_S))))

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
        return GuardedTransport(self._transport, self._shell, lambda script: self._noted(script, next(self._numbers)))

    def reconnect(self) -> None:
        """Connects again after the connection was lost: a new folder there, no worker, and nothing of before.

        Raises:
            DeviceFailed: it stays out of reach.
        """
        self._linked.clear()
        for attempt in range(ATTEMPTS):
            try:
                self._leave()
                self._guard = Guard(self._transport, self._before)
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
            self._before = guard.work
            guard.close()

    def _folders(self) -> Guard:
        """Returns the guard, which has the folders there.

        Raises:
            DeviceFailed: the session is closed.
        """
        if self._guard is None:
            raise DeviceFailed(f"The session with {self.name} is closed.")
        return self._guard

    def _noted(self, script: str, number: int) -> str:
        """Returns a script that runs in the session's folder, whose process the guard finds while it runs."""
        file = f"{number}.pid"
        begin = f'cd {quoted([self._folders().work])} || exit {_GONE}\n{PROCESSES}\necho "$$ $(born $$)" >{file}'
        return f"{begin}\n(\n{script}\n)\ncode=$?\nrm -f {file}\nexit $code"

    def _lost(self, code: int, said: str) -> DeviceFailed | None:
        """Returns the error for a session that ended there, or whose connection failed; see `Transport.lost`."""
        return self._ended_there() if code == _GONE else self._transport.lost(code, said)

    def _ended_there(self) -> ConnectionLost:
        return ConnectionLost(f"The session with {self.name} ended there: its folder is gone.")

    def _runner(self) -> str:
        with tempfile.TemporaryDirectory(prefix="vitedge-") as folder:
            return self.push(runner.write(Path(folder) / runner.NAME))

    def _missing(self, digests: Mapping[str, str]) -> list[str]:
        """Returns the files whose content is not in the cache there, or is there and damaged."""
        names = sorted(set(digests.values()))
        done = self._shell(f"cd {self._files()} && touch -c {quoted(names)}; {_hashes(names)}", _UPLOAD_S)
        if "no program" in done.err:
            raise DeviceFailed(f"{self.name} cannot check what it has: {done.last_words}.")
        pairs = (line.split() for line in done.out.splitlines())
        there = {words[0] for words in pairs if len(words) == 2 and words[0] == words[1].lstrip("*")}
        return [name for name, digest in digests.items() if digest not in there]

    def _upload(self, file: Path, digest: str) -> None:
        """Sends a file; after a lost connection it goes on where that one ended.

        Raises:
            DeviceFailed: it has no room there, or arrives as another.
        """
        for attempt in range(ATTEMPTS):
            try:
                if self._sent(file, digest) or self._sent(file, digest):
                    return
                break
            except ConnectionLost:
                if attempt == ATTEMPTS - 1:
                    raise
                self.reconnect()
        raise DeviceFailed(f"{file.name} did not reach {self.name} as it is here: try again.")

    def _sent(self, file: Path, digest: str) -> bool:
        """Sends a file once; returns whether its content arrived.

        What is there of it carries the name of its session: two that send the same do not disturb each other, and what
        is left of one that has ended is gone on with.
        """
        partial = f"{digest}.{os.path.basename(self._folders().work)}.part"
        self._shell(
            f"cd {self._files()} && for left in {digest}.*.part; do\n"
            "owner=${left%.part}; owner=${owner##*.}\n"
            f'[ -f "$left" ] && [ ! -d "../runs/$owner" ] && mv "$left" {quoted([partial])} && break\ndone'
        )
        try:
            self._transport.send(file, f"{self._folders().cache}/files/{partial}")
        except ConnectionLost:
            raise
        except DeviceFailed as failed:
            raise self._without_room(file, partial, failed) from failed
        return not self._shell(
            f"cd {self._files()} && {{ {_hashes([partial])}; }} | grep -q ^{digest} && mv {quoted([partial, digest])} "
            f"|| {{ rm -f {quoted([partial])}; exit 74; }}",
            _UPLOAD_S,
        ).code

    def _without_room(self, file: Path, partial: str, failed: DeviceFailed) -> DeviceFailed:
        """Removes what arrived of a file; returns the error, with the sizes: of a full disk, of a quota, or of else."""
        name = quoted([partial])
        said = self._shell(f"cd {self._files()} && wc -c <{name}; rm -f {name}; df -Pk . | tail -n 1").out
        size, held = file.stat().st_size, next(iter(said.split()), "0")
        space = re.search(r"\d+ +\d+ +(\d+) +\d+%", said)
        if space and int(space[1]) * 1024 <= size:
            return DeviceFailed(
                f"{self.name} has no room for {file.name}: it takes {size / 1e6:.1f} MB, and "
                f"{int(space[1]) * 1024 / 1e6:.1f} MB are free in {self._folders().cache}."
            )
        arrived = int(held) if held.isdigit() else 0
        return DeviceFailed(f"{str(failed).rstrip('.')}; {arrived / 1e6:.1f} of its {size / 1e6:.1f} MB had arrived.")

    def _files(self) -> str:
        """Returns the folder of the cached files, as a word of sh."""
        return quoted([f"{self._folders().cache}/files"])

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
        self._shell(TIDY.format(files=self._files(), limit_kb=CACHE_LIMIT_KB))
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
    return (
        f"if command -v sha256sum >/dev/null; then sha256sum {listed} 2>/dev/null\n"
        f"elif command -v shasum >/dev/null; then shasum -a 256 {listed} 2>/dev/null\n"
        "else echo 'no program makes SHA-256 digests there, neither sha256sum nor shasum' >&2; fi"
    )
