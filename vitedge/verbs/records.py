# SPDX-License-Identifier: Apache-2.0
"""The records that a single verb returns. Frozen dataclasses, like those of `vitedge.records`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vitedge.models.records import Cost
from vitedge.records import Manifest, ModelSpec, Step
from vitedge.records.showing import Shown


@dataclass(frozen=True, repr=False)
class Inspection(Shown):
    """The result of `vitedge.inspect`."""

    source: str
    """The path, or the name on the hub."""
    container: str
    """``pytorch zip``, ``pytorch legacy``, ``safetensors``, ``huggingface folder``, ``npz``."""
    size: int
    """Bytes."""
    weight_set: str
    """Name of the set of weights that was read."""
    weight_sets: tuple[str, ...]
    """Names of all sets that the file holds."""
    spec: ModelSpec
    cost: Cost
    dropped: Mapping[str, str] = field(default_factory=dict)
    """Name of each weight that the export does not need, to the reason."""
    steps: tuple[Step, ...] = ()
    """What vitedge did to the weights before, oldest first."""


@dataclass(frozen=True, repr=False)
class ExportResult(Shown):
    """The result of `vitedge.export`."""

    bundle: str
    """Path of the folder that was written."""
    size: int
    """Bytes, all files together."""
    manifest: Manifest
    seconds: Mapping[str, float]
    """Name of each stage to its wall time."""
    pending: tuple[str, ...] = ()
    """Formats that were asked for and are not built on this machine, one sentence each."""

    def __fspath__(self) -> str:
        """Returns the path of the bundle, for everything that takes one."""
        return self.bundle


@dataclass(frozen=True)
class WrittenKit:
    """The result of writing a verify kit, `vitedge.verbs.kit.write`."""

    bundle: str
    """Path of the bundle."""
    kit: str
    """Path of the folder that was written."""
    size: int
    """Bytes, all files together."""
