# SPDX-License-Identifier: Apache-2.0
"""An Android device that the system's ``adb`` reaches: by its Python where it has one, or by ONNX Runtime's tool."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from vitedge import registry
from vitedge.devices import perf_test
from vitedge.devices.health.names import ABSENT, WORKS
from vitedge.devices.health.outcomes import Outcome
from vitedge.devices.remote import RemoteSession
from vitedge.devices.session import Worker
from vitedge.devices.transports.adb import Transport
from vitedge.errors import MissingBackend
from vitedge.records import Artifact

PROVIDER = "VITEDGE_ANDROID_PROVIDER"
"""Environment variable with the execution provider that the tool is asked for; without it, cpu."""


class Session(RemoteSession):
    """A session with an Android device. See `vitedge.devices.session.Session`."""

    def __init__(self, address: str = "") -> None:
        transport = Transport(address)
        super().__init__(transport)
        self._way = transport
        self._sources: dict[str, Path] = {}
        self._found: perf_test.PerfTest | None = None

    def refusal(self, runtime: str) -> str:
        """Returns why a runtime does not work there; empty where it does."""
        if self._has_python():
            return super().refusal(runtime)
        if runtime != "onnxruntime":
            title = registry.RUNTIMES[runtime].title
            return f"{title} does not run on {self.name}, which has no Python: only ONNX Runtime does, by its own tool."
        try:
            self._tool()
        except MissingBackend as missing:
            return str(missing)
        return ""

    def tried(self, names: Sequence[str]) -> Mapping[str, Outcome]:
        """Tries what models need there; of a device without Python it is known whether the tool starts."""
        if self._has_python():
            return super().tried(names)
        refusals = {name: self.refusal(name) for name in names if name in registry.RUNTIMES}
        return {
            name: Outcome(name, ABSENT if why else WORKS, {} if why else {"version": "its own tool"}, why)
            for name, why in refusals.items()
        }

    def push(self, path: Path) -> str:
        """Copies a folder, or a file with the weights beside it, to the device, what it does not have yet."""
        there = super().push(path)
        self._sources[there] = path
        return there

    def start(self, label: str, patience_s: float, runtime: str = "") -> Worker:
        """Starts a process of the runner there, or measures by the tool where the device has no Python."""
        if self._has_python():
            return super().start(label, patience_s, runtime)
        return perf_test.Worker(self._way, self._tool(), label, patience_s, self._declared)

    def _has_python(self) -> bool:
        try:
            return not self._python().refusal("onnxruntime", self.name)
        except MissingBackend:
            return False

    def _tool(self) -> perf_test.PerfTest:
        if self._found is None:
            provider = os.environ.get(PROVIDER, "cpu")
            self._found = perf_test.find(self._way, self._folders().work, super().push, provider)
        return self._found

    def _declared(self, there: str) -> Artifact:
        """Returns what the model that was copied to that path declares."""
        found: Artifact = registry.function("vitedge.export.onnx.artifact:describe")(self._sources[there])
        return found
