# SPDX-License-Identifier: Apache-2.0
"""Checks one artifact in every way: outputs, simulation, layers, structure, readiness for its compiler.

Imports no PyTorch: it is used where a sealed bundle is validated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vitedge import registry
from vitedge.export.formats import FORMATS, LAYERS, QuantizedForm, readiness
from vitedge.parity.artifact import Floats, ReferenceOutputs, check_parity, check_structure
from vitedge.parity.metrics import compare, default_tolerance
from vitedge.recipe import CALIBRATED
from vitedge.records import Artifact, OutputParity, ParityReport, StructureReport

if TYPE_CHECKING:
    from vitedge.models.reference import Reference
    from vitedge.program.program import Program


TOLERANCE_DB = 1.0
"""Centred SQNR in dB that a runtime may lose against the simulation: a few values are rounded to the next integer."""
HALF_TOLERANCE_DB = 3.0
"""The same where half precision computes what is not quantized: so many values are rounded to the next integer that the
two runs are as far from each other as each is from the reference, and a few images tell the noise to some 2 dB. It is
allowed below the simulation with the noise of half precision, which the simulation does not have."""
LAYER_IMAGES = 2
"""Images for which layers are compared: all their outputs are kept in memory at once."""


@dataclass(frozen=True)
class Original:
    """The model that an artifact was made from: the reference, the captured program, both, or none."""

    reference: Reference | None = None
    """None where a quantized program was the source, or where nothing is at hand."""
    program: Program | None = None
    """The program that was lowered; None where only the reference is known."""

    @property
    def is_known(self) -> bool:
        """Whether layers and weights can be compared, and not the outputs alone."""
        return self.reference is not None or self.program is not None

    def captured(self, artifact: Artifact) -> Program:
        """Returns the program; without one, captures the reference with the artifact's input and batch size.

        Raises:
            ValueError: there is neither a program nor a reference.
        """
        if self.program is not None:
            return self.program
        if self.reference is None:
            raise ValueError(f"nothing is known of what {artifact.path} was made from")
        # PyTorch, which a sealed bundle is checked without.
        from vitedge.parity.reference import captured  # noqa: PLC0415

        return captured(self.reference, artifact)


@dataclass(frozen=True)
class CheckOptions:
    """The options of a check."""

    compute: str = "declared"
    """``declared``, or ``fp32`` for a Core ML package without the rounding of half precision."""
    layers: bool = False
    """Whether the report keeps the figures of every layer."""
    simulated: Floats | None = None
    """PyTorch's outputs of a quantized program, ``(images, …)``, which every runtime has to reproduce."""
    form: QuantizedForm | None = None
    """Form of the program, whose compiler is asked whether it can read and fuse the file; None asks none."""
    half: bool = False
    """Whether what is not quantized is computed in half precision."""


@dataclass(frozen=True)
class ArtifactCheck:
    """The reports on one artifact."""

    parity: tuple[ParityReport, ...]
    """One for each runtime."""
    structure: tuple[StructureReport, ...]
    """The file's structure, and where its form has a compiler its readiness for that."""


def check_artifact(
    path: Path, artifact: Artifact, reference_outputs: ReferenceOutputs, original: Original, options: CheckOptions
) -> ArtifactCheck:
    """Checks an artifact against what it was made from.

    Args:
        path: the artifact.
        artifact: its format, inputs and outputs.
        reference_outputs: the images, the reference's outputs, and the tolerance.
        original: what it was made from.
        options: how it is checked.

    Raises:
        MissingBackend: a runtime that is all there is for the format is not installed.
        UserError: the artifact cannot be read or run.
    """
    reports = check_parity(path, artifact, reference_outputs, options.compute)
    if options.simulated is not None:
        simulated = compare(reference_outputs.data.outputs, options.simulated)
        half_db = default_tolerance("fp16", reference_outputs.spec.family).centred_sqnr_db if options.half else None
        reports = tuple(compare_with_simulation(report, simulated, half_db) for report in reports)
    kind = FORMATS[artifact.format]
    if artifact.precision in CALIBRATED and original.program is None:
        # Its layers and weights are those of its program, which preparation for rounding has scaled.
        original = Original()
    weights = None
    if original.is_known and kind.expected_weights is not None:
        original = replace(original, program=original.captured(artifact))
        weights = registry.imported(kind.expected_weights).expected_weights(original.program)
    if original.is_known and reports and (kind.always_by_layer or options.layers or not reports[0].passed):
        report = registry.load(LAYERS, artifact.format).compare_layers(
            reports[0], path, artifact, original, reference_outputs
        )
        reports = (report if options.layers else replace(report, layers=()), *reports[1:])
    structure = check_structure(path, artifact, weights)
    ready = None if options.form is None else readiness(artifact.format, options.form)
    if ready is None:
        return ArtifactCheck(reports, (structure,))
    return ArtifactCheck(reports, (structure, registry.imported(ready).check(path, artifact.target)))


def compare_with_simulation(
    report: ParityReport, simulated: tuple[OutputParity, ...], half_db: float | None = None
) -> ParityReport:
    """Returns the report, failed where the runtime is worse than PyTorch's simulation by more than is allowed.

    Args:
        report: a runtime against the reference.
        simulated: PyTorch against the reference, on the same images.
        half_db: centred SQNR in dB that half precision alone has at least; None where there is none of it.
    """
    said = ", ".join(f"{output.centred_sqnr_db:.1f} dB" for output in simulated)
    report = replace(report, note=f"{report.note + '; ' if report.note else ''}simulated by PyTorch: {said}")
    for found, expected in zip(report.outputs, simulated, strict=True):
        if report.passed and found.centred_sqnr_db < _least_db(expected.centred_sqnr_db, half_db):
            reason = (
                f"{found.output} has {found.centred_sqnr_db:.1f} dB centred SQNR where the simulation has "
                f"{expected.centred_sqnr_db:.1f} dB: the runtime rounds elsewhere than the program"
            )
            return replace(report, passed=False, reason=reason)
    return report


def _least_db(simulated_db: float, half_db: float | None) -> float:
    """Returns the centred SQNR in dB that a runtime must have: the noise of half precision adds to the simulation's."""
    if half_db is None:
        return simulated_db - TOLERANCE_DB
    noise = 10 ** (-simulated_db / 10) + 10 ** (-half_db / 10)
    return -10 * math.log10(noise) - HALF_TOLERANCE_DB
