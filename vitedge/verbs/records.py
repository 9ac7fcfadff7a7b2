# SPDX-License-Identifier: Apache-2.0
"""The records that a single verb returns. Frozen dataclasses, like those of `vitedge.records`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vitedge.accuracy.records import PairedAccuracy, SubjectAccuracy
from vitedge.models.records import Cost
from vitedge.records import Artifact, LatencyRatio, LatencyReport, Manifest, ModelSpec, ParityReport, Step
from vitedge.records.showing import Shown

WITHIN, FAILED, NOT_MADE = "within tolerance", "failed", "not made"
"""Outcomes of a candidate of a comparison: ``failed`` is one that fails a check, ``not made`` one that cannot be."""


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


@dataclass(frozen=True)
class Candidate:
    """One way to ship a checkpoint, as `vitedge.compare` made, checked and measured it."""

    name: str
    """Format and precision, such as ``onnx int8``; with the profile where several were named."""
    format: str
    """A key of `vitedge.export.formats.FORMATS`."""
    precision: str
    profile: str
    """The device that it is for; empty where none was named."""
    command: str
    """The command that makes it, with ``-o`` and the bundle left as ``BUNDLE``; empty where the source or an option is
    nothing that can be typed."""
    outcome: str
    """``within tolerance``, ``failed`` or ``not made``."""
    reason: str = ""
    """Which check failed, or why it was not made, one sentence; or empty."""
    artifact: Artifact | None = None
    """The file, its path relative to its bundle; None where there is none."""
    parity: tuple[ParityReport, ...] = ()
    """Its comparisons with the reference."""
    notes: tuple[str, ...] = ()
    latency: LatencyReport | None = None
    not_timed: str = ""
    """Why there is no latency, one sentence, or empty."""
    accuracy: SubjectAccuracy | None = None
    """On the labelled images; None where none were named."""
    loss: PairedAccuracy | None = None
    """Its top-1 beside the reference's, on the same images."""
    seconds: float = 0.0
    """Wall time of making and checking it."""

    @property
    def within(self) -> bool:
        """Whether it is within its tolerance."""
        return self.outcome == WITHIN


@dataclass(frozen=True, repr=False)
class Comparison(Shown):
    """The result of `vitedge.compare`."""

    source: str
    device: str
    """Where the artifacts were checked and measured."""
    image_source: str
    """The images that parity was measured on."""
    candidates: tuple[Candidate, ...]
    ratios: tuple[LatencyRatio, ...]
    """The latencies of every two candidates, measured in turn."""
    recommended: str
    """Name of the candidate to ship; empty where none is within its tolerance."""
    why: str
    """Why that one, in one sentence."""
    command: str
    """The command that makes it; empty where nothing is recommended, or where it cannot be typed."""
    reference: SubjectAccuracy | None = None
    """The PyTorch model on the labelled images; None where none were named."""
    label_source: str = ""
    """The labelled images, or empty."""
    kept: Mapping[str, str] = field(default_factory=dict)
    """Name of each candidate whose bundle was kept, to the path of the bundle."""
    size: int = 0
    """Bytes of what was kept."""
    failed: str = ""
    """What failed on the device while the candidates were measured, one sentence, or empty."""
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    """Wall time of the whole comparison."""

    @property
    def passed(self) -> bool:
        """Whether a candidate is within its tolerance."""
        return any(one.within for one in self.candidates)
