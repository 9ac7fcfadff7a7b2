# SPDX-License-Identifier: Apache-2.0
"""This machine as a device: files stay where they are, and a worker is a child of this process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vitedge import registry
from vitedge.devices import clocks, machine, processors
from vitedge.devices.facts import watching
from vitedge.devices.guard import Guard
from vitedge.devices.health.outcomes import TRTEXEC, Outcome, of_trtexec, outcomes, process_here
from vitedge.devices.process import WorkerProcess
from vitedge.devices.transports import here
from vitedge.devices.transports.transport import Completed, quoted
from vitedge.devices.watcher import INTERVAL_S, LIMIT_S, Watcher
from vitedge.errors import BadRecipe, MissingBackend, VitedgeError
from vitedge.export.tensorrt.records import EngineRecord
from vitedge.export.tensorrt.request import EngineRequest

# By name, for it is the program of another process: `vitedge.latency` measures through sessions, and is not below them.
_WORKER = "vitedge.latency.worker"
_TRIALS = "vitedge.devices.health.trials"
# By name too: a check-up has to run where NumPy or onnx, which these need, cannot be imported.
_BUILD = "vitedge.export.tensorrt.building:build"
_VERSION = "vitedge.devices.trtexec.program:version_of"
_TRTEXEC_PLACE = "/usr/src/tensorrt/bin/trtexec"


class Session:
    """This machine. See `vitedge.devices.session.Session`."""

    name = "local"

    def __init__(self, address: str = "") -> None:
        if address:
            raise BadRecipe(f"This machine has no address, so --device is local and not local:{address}.")
        self._workers: list[WorkerProcess] = []
        self._guard: Guard | None = None

    def identity(self) -> dict[str, Any]:
        """Returns model, processor, cores, memory, system and versions of this machine."""
        return machine.identity()

    def condition(self) -> dict[str, Any]:
        """Returns load, governor, clocks in MHz and temperatures in degrees Celsius."""
        return machine.condition()

    def cores(self) -> int:
        """Returns the number of physical cores that this process may use."""
        return processors.cores()

    def processors(self) -> int:
        """Returns the number of threads that can run at once here, by affinity and the container's quota."""
        return processors.processors()

    def refusal(self, runtime: str) -> str:
        """Returns why a runtime does not work here, such as a package that is not installed; empty where it does."""
        try:
            registry.usable(registry.RUNTIMES, runtime)
        except MissingBackend as missing:
            return str(missing)
        return ""

    def lock_clocks(self) -> tuple[str, ...]:
        """Locks this machine's clocks; a guard restores them, even if this process is killed."""
        if self._guard is None:
            self._guard = Guard(here.Transport())
        folder = quoted([self._guard.work])
        return clocks.lock(lambda script, limit_s: here.Transport().run(f"cd {folder} && {script}", limit_s), self.name)

    def tried(self, names: Sequence[str]) -> Mapping[str, Outcome]:
        """Tries what models need, in processes of their own."""
        found = outcomes([name for name in names if name != TRTEXEC], process_here(_TRIALS))
        return {**found, **({TRTEXEC: _trtexec()} if TRTEXEC in names else {})}

    def watch(self) -> Watcher:
        """Starts watching this machine, where it has a shell."""
        shell = shutil.which("sh")
        if shell is None:
            return Watcher(None)
        pipe, none = subprocess.PIPE, subprocess.DEVNULL
        script = watching.script(LIMIT_S, INTERVAL_S)
        return Watcher(subprocess.Popen([shell, "-c", script], stdin=none, stdout=pipe, stderr=none))

    def push(self, path: Path) -> str:
        """Returns the path itself: the file is here already."""
        return str(path)

    def start(self, label: str, patience_s: float, runtime: str = "") -> WorkerProcess:  # noqa: ARG002 - one runs all
        """Starts a child process with this process' import path."""
        search = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        environment = {**os.environ, "PYTHONPATH": search}
        worker = WorkerProcess([sys.executable, "-m", _WORKER], label, patience_s, environment)
        self._workers.append(worker)
        return worker

    def build(self, request: EngineRequest) -> tuple[EngineRecord, tuple[str, ...]]:
        """Builds an engine of TensorRT for the GPU of this machine."""
        return registry.function(_BUILD)(request, "tensorrt"), ()

    def pull(self, name: str, path: Path) -> None:
        """Copies the file, unless it is there already."""
        if Path(name).resolve() != path.resolve():
            shutil.copyfile(name, path)

    def reconnect(self) -> None:
        """Ends every worker: there is no connection that could be lost."""
        self.close()

    def close(self) -> None:
        """Ends every worker."""
        while self._workers:
            self._workers.pop().kill()
        guard, self._guard = self._guard, None
        if guard is not None:
            guard.close()


def _trtexec() -> Outcome:
    path = shutil.which("trtexec") or (_TRTEXEC_PLACE if os.path.exists(_TRTEXEC_PLACE) else "")
    if not path:
        return of_trtexec("", "this machine has no trtexec", is_there=False)
    try:
        done = subprocess.run(
            [path, "--help"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
        )
        told = registry.function(_VERSION)(path, "this machine", Completed(done.returncode, done.stdout, done.stderr))
        return of_trtexec(told, "", is_there=True)
    except (OSError, subprocess.SubprocessError, VitedgeError) as error:
        return of_trtexec("", str(error), is_there=True)
