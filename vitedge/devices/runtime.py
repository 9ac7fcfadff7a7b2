# SPDX-License-Identifier: Apache-2.0
"""An artifact in a runtime of a device, as a runtime of this process: arrays go there and outputs come back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vitedge.devices.messages import packed, unpacked
from vitedge.devices.session import Session, Worker
from vitedge.errors import BadRecipe, ConnectionLost
from vitedge.files.plain import to_dict
from vitedge.records import Artifact, TensorSpec
from vitedge.runtimes.base import Arrays

PATIENCE_S = 600.0
"""Seconds that one batch may take there."""
ATTEMPTS = 3
"""Times that a batch is computed where the connection is lost each time."""


class Runtime:
    """One artifact that is loaded on a device. See `vitedge.runtimes.base.Runtime`.

    After a lost connection it connects again, loads the artifact again, and computes that batch again.

    Args:
        session: with the device.
        name: of the runtime there, a key of `vitedge.registry.RUNTIMES`.
        source: the artifact's path on this machine.
        artifact: its record, for a runtime that does not tell inputs and outputs; None where there is none.
    """

    def __init__(self, session: Session, name: str, source: Path, artifact: Artifact | None = None) -> None:
        self.inputs: tuple[TensorSpec, ...] = ()
        self.outputs: tuple[TensorSpec, ...] = ()
        self._session = session
        self._name = name
        self._source = source
        self._artifact = artifact
        self._worker: Worker | None = None
        self._described: dict[str, Any] = {}

    def __enter__(self) -> Runtime:
        for attempt in range(ATTEMPTS):
            try:
                self._load()
                break
            except ConnectionLost:
                self._again(attempt)
        return self

    def run(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        """Returns all outputs by name.

        Raises:
            DeviceFailed: the run failed there, or the device stays out of reach.
        """
        for attempt in range(ATTEMPTS):
            try:
                if self._worker is None:
                    self._load()
                return unpacked(self._ask("run", feeds=packed(feeds))["outputs"])
            except ConnectionLost:
                self._again(attempt)
        raise BadRecipe("A runtime needs at least one attempt.")

    def describe(self) -> dict[str, Any]:
        """Returns what really runs there: the library and its version, the provider, the threads."""
        return self._described

    def __exit__(self, *error: object) -> None:
        if self._worker is not None and error[0] is None:
            self._ask("end")
        self._worker = None

    def _load(self) -> None:
        label = f"{self._source.name} on {self._session.name}"
        self._worker = self._session.start(label, PATIENCE_S, self._name)
        told = self._artifact
        model = {
            "label": label,
            "runtime": self._name,
            "source": self._session.push(self._source),
            "threads": self._session.cores(),
            "declared": {} if told is None else to_dict({"inputs": told.inputs, "outputs": told.outputs}),
        }
        answer = self._ask("load", model=model)
        self.inputs, self.outputs = (
            tuple(TensorSpec(**{**spec, "shape": tuple(spec["shape"])}) for spec in answer[side])
            for side in ("inputs", "outputs")
        )
        self._described = answer["described"]

    def _ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        if self._worker is None:
            raise ValueError("the runtime is not open")
        return self._worker.ask(do, **arguments)

    def _again(self, attempt: int) -> None:
        """Connects again; raises what is being handled where that was the last attempt."""
        self._worker = None
        if attempt == ATTEMPTS - 1:
            raise  # noqa: PLE0704 - of the caller's handler
        self._session.reconnect()
