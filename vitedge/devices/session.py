# SPDX-License-Identifier: Apache-2.0
"""The protocol of a session with a device: copy files there, start worker processes, ask them, copy files back.

A kind of device is a module of `vitedge.registry.DEVICES` with a class `Session`, and nothing else of it is public.
Code that measures talks to the device through a session alone: the facts of the machine and the paths are the device's,
and a worker is a process there, reached through a pipe, ssh or adb.

A request and its answer are one JSON document a line. A worker answers ``{"do": REQUEST, ARGUMENT: …}`` with a document
of its own, or with ``{"error": TYPE, "message": SENTENCE}``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from vitedge import registry
from vitedge.devices.health.outcomes import Outcome
from vitedge.devices.watcher import Watcher
from vitedge.export.tensorrt.records import EngineRecord
from vitedge.export.tensorrt.request import EngineRequest

REQUESTS: Mapping[str, str] = {
    "load": "loading",
    "first": "in its first inference",
    "warm_up": "warming up",
    "burst": "being measured",
    "run": "computing outputs",
    "profile": "being profiled",
    "end": "ending",
}
"""Request that a worker answers, to its activity in error messages; `vitedge.latency.worker` has the arguments."""


class Worker(Protocol):
    """A process on the device that runs one model when asked to, does nothing in between, and exits after ``end``."""

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Sends one of `REQUESTS` and waits for its answer.

        Args:
            do: the request.
            **arguments: its arguments, plain JSON values.

        Raises:
            VitedgeError: an error that the worker raised, of the same class.
            DeviceFailed: it died, failed in another way, stayed silent too long, or the device is out of reach.
        """
        ...


class Session(Protocol):
    """A connection to a device."""

    name: str
    """The device as users write it, such as ``ssh:orin``."""

    def __init__(self, address: str = "") -> None:
        """Connects to the device.

        Args:
            address: the part after the colon of the device's name, such as the host of ``ssh:HOST``.

        Raises:
            BadRecipe: this kind of device has no such address.
            DeviceFailed: it cannot be reached.
        """

    def identity(self) -> dict[str, Any]:
        """Returns the facts that do not change during a measurement: model, processor, memory, system, versions."""
        ...

    def condition(self) -> dict[str, Any]:
        """Returns the facts that do change: load, governor, clocks in MHz, temperatures in degrees Celsius."""
        ...

    def cores(self) -> int:
        """Returns the number of physical cores that a process may use there."""
        ...

    def processors(self) -> int:
        """Returns the number of threads of a process that can run at once there."""
        ...

    def refusal(self, runtime: str) -> str:
        """Returns why a runtime of `vitedge.registry.RUNTIMES` does not work on the device; empty where it does."""
        ...

    def lock_clocks(self) -> tuple[str, ...]:
        """Locks the device's clocks until the session ends, however it ends; returns what was locked.

        Raises:
            DeviceFailed: it has no clocks that can be locked, or refuses it.
        """
        ...

    def tried(self, names: Sequence[str]) -> Mapping[str, Outcome]:
        """Tries what models need there, in processes of their own; returns the outcomes by name.

        Args:
            names: keys of `vitedge.devices.health.trials.TRIALS`, or ``trtexec``.
        """
        ...

    def watch(self) -> Watcher:
        """Starts reading clocks, temperatures, power and events there, until the result is closed."""
        ...

    def push(self, path: Path) -> str:
        """Copies a folder, or a file with the weights beside it, to the device; returns its path there."""
        ...

    def start(self, label: str, patience_s: float, runtime: str = "") -> Worker:
        """Starts a process for one model.

        Args:
            label: the model's name in sentences.
            patience_s: seconds that an answer may take before the worker is ended.
            runtime: that it will run in, a key of `vitedge.registry.RUNTIMES`: some devices have a program for one.
        """
        ...

    def build(self, request: EngineRequest) -> tuple[EngineRecord, tuple[str, ...]]:
        """Builds an engine of TensorRT on the device, for its GPU, and brings it to the path that the request names.

        Returns:
            The record of the build, and the builder's warnings in its own words.

        Raises:
            MissingBackend: the device has no builder, or another GPU than was asked for.
            CheckFailed: the file cannot be built.
        """
        ...

    def pull(self, name: str, path: Path) -> None:
        """Copies a file from the device: ``name`` is its path there, ``path`` the one that is written here."""
        ...

    def reconnect(self) -> None:
        """Connects again after `ConnectionLost`. What was copied has to be copied again, and the workers are gone.

        Raises:
            DeviceFailed: the device stays out of reach.
        """
        ...

    def close(self) -> None:
        """Ends every worker in whatever state it is, and removes everything that the session copied to the device."""
        ...


@contextmanager
def connect(device: str) -> Iterator[Session]:
    """Yields a session with a device, which is closed at the end of the ``with``.

    Args:
        device: a key of `vitedge.registry.DEVICES`, with an address after a colon where that kind has one.

    Raises:
        BadRecipe: there is no such device.
        DeviceFailed: it cannot be reached.
    """
    registry.check_device(device)
    kind, _, address = device.partition(":")
    session: Session = registry.load(registry.DEVICES, kind).Session(address)
    try:
        yield session
    finally:
        session.close()
