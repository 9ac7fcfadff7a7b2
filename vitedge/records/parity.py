# SPDX-License-Identifier: Apache-2.0
"""Comparisons with the reference, and checks of an artifact's content."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Tolerance:
    """The limits that a comparison has to keep within. ``None`` leaves a metric unchecked."""

    relative_error: float | None = None
    """Largest allowed max |Δ| / max |reference|."""
    centred_sqnr_db: float | None = None
    """Smallest allowed signal-to-quantization-noise ratio after each output's mean over the images is removed."""
    agreement: float | None = None
    """Smallest allowed share of images with the reference's top-1 class."""


@dataclass(frozen=True)
class OutputParity:
    """One output compared with the reference's, over all images."""

    output: str
    """Name of the output, or the module name of a layer."""
    relative_error: float
    """max |Δ| / max |reference|; NaN where the output is missing or has another shape."""
    sqnr_db: float
    """Signal-to-quantization-noise ratio: power of the reference over power of the error, in decibels."""
    centred_sqnr_db: float
    """The same, with each value's mean over the images removed from the reference."""
    cosine: float
    """Cosine similarity of all values together."""
    agreement: float | None
    """Share of images with the reference's top-1 class; None where the output is not a vector of class scores, or
    where no score of the reference is above another."""
    kl: float | None
    """Mean Kullback-Leibler divergence of the softmax from the reference's, in nats; None likewise."""
    degenerate: str = ""
    """Reason why a comparison with this reference shows nothing, or empty."""


@dataclass(frozen=True)
class ParityReport:
    """The comparison of one artifact in one runtime with the reference."""

    artifact: str
    """Path relative to the bundle."""
    runtime: str
    """A key of `vitedge.registry.RUNTIMES`."""
    images: int
    image_source: str
    """``synthetic, seed 0`` or the folder, with the SHA-256 of the images that were used."""
    tolerance: Tolerance
    outputs: tuple[OutputParity, ...]
    passed: bool
    reason: str = ""
    """The tolerance that was exceeded, and by how much, or empty."""
    first_departure: str = ""
    """First module whose output exceeds the tolerance; empty where layers were not compared."""
    layers: tuple[OutputParity, ...] = ()
    """Every layer compared, where that was asked for."""
    note: str = ""
    """A caveat on the figures, one sentence, or empty."""
    machine: Mapping[str, str] = field(default_factory=dict)
    """The machine and versions that it ran with, where that was another machine than the one that wrote the bundle."""


@dataclass(frozen=True)
class ValueRange:
    """The largest magnitude among the outputs of one operation of a program."""

    operation: str
    """The kind of operation, such as ``matmul``."""
    value: str
    """Name of its output in the program."""
    module: str
    """The module of the reference that it belongs to; empty where that is not known."""
    dtype: str
    magnitude: float | None
    """Largest magnitude; None for infinity and NaN."""
    fault: str = ""
    """``overflow``, ``infinite``, ``NaN``, or empty where float16 can hold the values."""


@dataclass(frozen=True)
class OverflowReport:
    """The ranges of an artifact's values, compared with the range of float16."""

    artifact: str
    images: int
    limit: float
    """The magnitude from which a value counts as an overflow: float16's largest number less a safety margin."""
    ranges: tuple[ValueRange, ...]
    """Largest first, faults before everything else."""
    keep_fp32: tuple[str, ...]
    """Modules of the reference that have to stay in float32."""
    passed: bool


@dataclass(frozen=True)
class Finding:
    """Something in an artifact that will cost speed or precision on the device, or the damage that ends a check."""

    artifact: str
    rule: str
    """The kind of finding in a word, such as ``rank``."""
    where: str
    """The operation, value or input, with its number where there are several."""
    reason: str
    remedy: str


@dataclass(frozen=True)
class StructureReport:
    """The checks of an artifact's content that need no runtime."""

    artifact: str
    checks: tuple[str, ...]
    """The properties that were confirmed, one phrase each."""
    passed: bool
    reason: str = ""
    """The property that does not hold, or empty."""
    remarks: tuple[str, ...] = ()
    """What is no fault and may still cost speed, one phrase each."""
