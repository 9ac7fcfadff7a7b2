# SPDX-License-Identifier: Apache-2.0
"""A bundle: its artifacts, its manifest, and the result of checking it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vitedge.records.latency import BenchReport, SpeedComparison
from vitedge.records.model import CheckpointIdentity, ModelSpec, Step
from vitedge.records.parity import Finding, OverflowReport, ParityReport, StructureReport
from vitedge.records.showing import Shown


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of an artifact."""

    name: str
    shape: tuple[int | str, ...]
    """Sizes of the axes; a string names a dynamic one."""
    dtype: str
    """NumPy's name of the element type."""
    pixels: bool = False
    """True for a float input whose values are pixels, 0 to 255: the artifact normalizes them itself."""


@dataclass(frozen=True)
class Artifact:
    """One file, or one ``.mlpackage`` folder, that a lowering wrote."""

    format: str
    """A key of `vitedge.export.formats.FORMATS`, such as ``onnx``."""
    path: str
    """Path relative to the bundle."""
    sha256: str
    """SHA-256 of the file; for a folder, of the sorted list of its files' names and hashes."""
    size: int
    """Bytes, all files together."""
    precision: str
    """``fp32``, ``fp16``, or the scheme of quantization, such as ``int8``."""
    target: str
    """``opset 18``, ``iOS17``, …"""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    files: Mapping[str, str] = field(default_factory=dict)
    """Path of every file of the artifact, relative to the bundle, to its SHA-256."""
    blocks: Mapping[str, str] = field(default_factory=dict)
    """Module name of the reference to the name of the value in the artifact that equals the module's output."""
    notes: tuple[str, ...] = ()
    oldest_runtimes: Mapping[str, str] = field(default_factory=dict)
    """Runtime or system to the oldest release that computes it right, as measured: ``{"onnxruntime": "1.17"}``;
    ``unknown`` where that was not measured, ``none`` where no release does. Empty in manifests of earlier versions."""
    engine: Mapping[str, Any] | None = None
    """`vitedge.export.tensorrt.records.EngineRecord` as plain values; None for every other format."""


@dataclass(frozen=True)
class Manifest:
    """``manifest.json`` of a bundle: its artifacts, their origin, and the results of all checks."""

    format_version: int
    checkpoint: CheckpointIdentity
    spec: ModelSpec
    recipe: Mapping[str, Any]
    """`vitedge.recipe.ResolvedRecipe` as plain values."""
    artifacts: tuple[Artifact, ...]
    parity: tuple[ParityReport, ...]
    structure: tuple[StructureReport, ...]
    latency: BenchReport | None
    """The last measurement of the bundle alone; None where there was none."""
    files: Mapping[str, str]
    """Every other file of the bundle to its SHA-256."""
    versions: Mapping[str, str]
    """Packages, Python and the platform that wrote the bundle, to their versions."""
    quantization: Mapping[str, Any] = field(default_factory=dict)
    """Form of a quantized program, a key of `vitedge.export.formats.FORMS`, to its
    `vitedge.quantization.records.QuantizationRecord` as plain values; ``program`` where a ``.pt2`` file was the source.
    """
    speed: SpeedComparison | None = None
    """Latency beside that of float files; None where that was not asked for."""
    steps: tuple[Step, ...] = ()
    """Changes of the model before the export, oldest first; parity is measured against the model after the last."""
    preprocessing: tuple[Mapping[str, Any], ...] = ()
    """What is done to a picture until the artifacts take it, in order, as `vitedge.images.steps.preprocessing_steps`
    says it; empty in manifests of earlier versions."""


@dataclass(frozen=True, repr=False)
class Validation(Shown):
    """The result of `vitedge.validate`, or of importing the results of a verify kit."""

    subject: str
    parity: tuple[ParityReport, ...]
    structure: tuple[StructureReport, ...]
    files: int
    """Number of files whose hash is the manifest's."""
    passed: bool
    overflow: tuple[OverflowReport, ...] = ()
    findings: tuple[Finding, ...] = ()
    engines: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Path of each engine to its `Artifact.engine`."""
    size: int | None = None
    """Bytes of the bundle, where its manifest was written anew."""
    checkpoint: CheckpointIdentity | None = None
    """The weights that a bundle was made from; None for an artifact alone."""
    steps: tuple[Step, ...] = ()
    """What was done to them before, oldest first."""
    notes: tuple[str, ...] = ()
    """Remarks about links to files elsewhere, ignored files, and images skipped or fewer than asked for."""
