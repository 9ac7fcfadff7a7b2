# SPDX-License-Identifier: Apache-2.0
"""The verb ``validate``: checks of a bundle or an artifact that is already there.

A sealed bundle is checked from its own ``reference.npz``; PyTorch is imported only to compare with a checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitedge import registry
from vitedge.devices.checking import check_there, refusal_there
from vitedge.devices.session import connect
from vitedge.errors import BadRecipe, MissingBackend, UnreadableArtifact
from vitedge.export.formats import CHECKERS, FORMATS, of_file
from vitedge.files.bundle import MANIFEST, check_files, read_manifest, remarks
from vitedge.files.own_files import instead_of_artifact
from vitedge.files.plain import from_dict
from vitedge.parity.artifact import ReferenceOutputs, image_size, sealed_outputs
from vitedge.parity.check import CheckOptions, Original, check_artifact
from vitedge.parity.float16_range import check_overflow
from vitedge.parity.metrics import default_tolerance
from vitedge.progress import Progress, reporting, stage
from vitedge.recipe import IMAGE_COUNT, ResolvedRecipe, check_image_count, check_tolerance
from vitedge.records import (
    Artifact,
    Finding,
    Manifest,
    OverflowReport,
    ParityReport,
    StructureReport,
    Tolerance,
    Validation,
)
from vitedge.registry import LOCAL

if TYPE_CHECKING:
    from vitedge.checkpoints.read import CheckpointSource
    from vitedge.models.reference import Reference


_DECLARED = "declared"


@dataclass(frozen=True)
class ReferenceOptions:
    """The checkpoint that an artifact is compared with, and how."""

    checkpoint: CheckpointSource
    images: str = "synthetic"
    image_count: int = IMAGE_COUNT
    layers: bool = False
    tolerance: Tolerance | None = None
    """None takes the bundle's, or the default of the precision and the family."""
    weights: str | None = None
    """Which set of weights, where the file holds several; None takes the bundle's."""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Facts of the checkpoint to values; they go over those that the bundle was exported with."""

    def __post_init__(self) -> None:
        check_image_count("Parity", self.image_count)
        check_tolerance(self.tolerance)


@dataclass(frozen=True)
class ValidationOptions:
    """How artifacts are looked at."""

    compute: str = _DECLARED
    """``declared``, or ``fp32``: without the rounding of half precision, which leaves the error of the conversion."""
    overflow: bool = False
    """Watch the ranges of a Core ML package's values."""
    device: str = LOCAL
    """Where artifacts run besides: a device of `vitedge.registry.DEVICES`."""
    kernels: bool = False
    """Whether the kernels of engines are looked for; what has no engine is refused then, without a checkpoint."""

    def __post_init__(self) -> None:
        registry.check_device(self.device)


def validate(
    subject: Path,
    against: ReferenceOptions | None = None,
    options: ValidationOptions | None = None,
    progress: Progress | None = None,
) -> Validation:
    """Checks a bundle's files and shows its parity again, or compares with a checkpoint.

    Args:
        subject: a bundle, an ``.onnx`` file or an ``.mlpackage``.
        against: the checkpoint and the images to compare with; a bundle needs neither.
        options: how artifacts are looked at.
        progress: as `vitedge.progress.reporting` takes it: who is told how far it is; None tells nobody.

    Raises:
        BundleDamaged: a file of the bundle is not the one that its manifest describes.
        UnreadableArtifact: the subject is neither a bundle nor an artifact.
        BadRecipe: an artifact without a checkpoint to compare it with.
    """
    with reporting(progress), stage("validate", whole=True):
        return _looked_at(subject, against, options or ValidationOptions())


def _looked_at(subject: Path, against: ReferenceOptions | None, options: ValidationOptions) -> Validation:
    if not subject.exists():
        raise UnreadableArtifact(f"{subject} is not there.")
    if subject.is_dir() and (of_file(subject) is None or (subject / MANIFEST).is_file()):
        manifest = read_manifest(subject)
        with stage("checking files"):
            files = check_files(subject, manifest)
        parts = tuple((subject / artifact.path, artifact) for artifact in manifest.artifacts)
        found = _validated(subject, parts, _Comparison.of_bundle(subject, manifest, against), options, files)
        notes = (*found.notes, *remarks(subject, manifest))
        return replace(found, checkpoint=manifest.checkpoint, steps=manifest.steps, notes=notes)
    if of_file(subject) is None:
        suffixes = ", ".join(kind.suffix for kind in FORMATS.values() if kind.suffix)
        said = instead_of_artifact(subject) or f"is neither a bundle nor one of {suffixes}"
        raise UnreadableArtifact(f"{subject} {said}.")
    if against is None:
        raise BadRecipe(f"{subject} is not a bundle: add --against CHECKPOINT to say what it has to compute.")
    artifact = registry.load(CHECKERS, str(of_file(subject))).describe(subject)
    return _validated(subject, ((subject, artifact),), _Comparison.of_artifact(artifact, against), options)


@dataclass(frozen=True)
class _Comparison:
    """The reference that the artifacts are compared with."""

    reference_outputs: ReferenceOutputs
    reference: Reference | None = None
    """The PyTorch model, if a checkpoint was given."""
    layers: bool = False
    """Whether the report keeps the figures of every layer."""
    remote: tuple[ParityReport, ...] = ()
    """Reports of other machines that are sealed into the bundle, shown as they are."""

    @staticmethod
    def of_bundle(folder: Path, manifest: Manifest, against: ReferenceOptions | None) -> _Comparison:
        sealed = sealed_outputs(folder, manifest)
        if against is None:
            return _Comparison(sealed, remote=tuple(report for report in manifest.parity if report.machine))
        recipe = from_dict(ResolvedRecipe, manifest.recipe)
        against = replace(
            against,
            tolerance=against.tolerance or sealed.tolerance,
            weights=against.weights or recipe.weights,
            overrides={**recipe.overrides, **against.overrides},
        )
        return _Comparison.of_checkpoint(
            against, manifest.spec.image_size, features="logits" not in sealed.data.outputs
        )

    @staticmethod
    def of_artifact(artifact: Artifact, against: ReferenceOptions) -> _Comparison:
        if FORMATS[artifact.format].made_from:
            raise BadRecipe(
                f"{artifact.path} does not say what it takes and returns: validate the bundle that it lies in."
            )
        if not artifact.outputs:
            raise UnreadableArtifact(
                f"{artifact.path} returns a label and a table of probabilities, and no scores to compare: convert the "
                "model without a ClassifierConfig, or with its logits as a further output."
            )
        return _Comparison.of_checkpoint(
            against, image_size(artifact), features=len(artifact.outputs) > 1, precision=artifact.precision
        )

    @staticmethod
    def of_checkpoint(
        against: ReferenceOptions, image_size: tuple[int, int], *, features: bool, precision: str = "fp32"
    ) -> _Comparison:
        # PyTorch from here on, and only here: a sealed bundle is validated without it.
        from vitedge.checkpoints.read import read  # noqa: PLC0415
        from vitedge.images.image_set import load  # noqa: PLC0415
        from vitedge.models.reference import load_reference  # noqa: PLC0415
        from vitedge.parity.reference import gather  # noqa: PLC0415

        checkpoint = read(against.checkpoint, weights=against.weights, overrides=against.overrides, features=features)
        with stage("building the reference"):
            reference = load_reference(checkpoint, image_size)
        images = load(against.images, reference.spec, against.image_count)
        tolerance = against.tolerance or default_tolerance(precision, reference.spec.family)
        with stage("running the reference"):
            found = gather(reference, images, tolerance, features=features or reference.spec.classes == 0)
        return _Comparison(found, reference, against.layers)


def _validated(
    subject: Path,
    parts: Sequence[tuple[Path, Artifact]],
    comparison: _Comparison,
    options: ValidationOptions,
    files: int = 0,
) -> Validation:
    """Checks all artifacts.

    Raises:
        BadRecipe: layers were asked for, and there is neither a checkpoint to compare them with nor an engine.
    """
    if options.kernels and comparison.reference is None and all(artifact.engine is None for _, artifact in parts):
        raise BadRecipe(
            f"{subject} holds no engine, whose kernels --layers would list: add --against CHECKPOINT to compare layers."
        )
    if options.compute != _DECLARED and not any(FORMATS[artifact.format].without_rounding for _, artifact in parts):
        raise BadRecipe(f"--compute {options.compute} is for Core ML packages, and {subject} holds none: leave it out.")
    how, original = CheckOptions(options.compute, comparison.layers), Original(comparison.reference)
    found = [check_artifact(path, artifact, comparison.reference_outputs, original, how) for path, artifact in parts]
    parity = (*(report for one in found for report in one.parity), *comparison.remote)
    structure = tuple(report for one in found for report in one.structure)
    findings = tuple(finding for path, artifact in parts for finding in _findings(path, artifact))
    watched = tuple(_watched(subject, parts, comparison)) if options.overflow else ()
    parity = (*parity, *_run_there(subject, parts, comparison, options.device))
    reports: list[ParityReport | StructureReport | OverflowReport] = [*parity, *structure, *watched]
    passed = all(report.passed for report in reports)
    engines = {artifact.path: artifact.engine for _, artifact in parts if artifact.engine is not None}
    notes = comparison.reference_outputs.notes
    return Validation(str(subject), parity, structure, files, passed, watched, findings, engines, notes=notes)


def _run_there(
    subject: Path, parts: Sequence[tuple[Path, Artifact]], comparison: _Comparison, device: str
) -> tuple[ParityReport, ...]:
    """Returns the reports of a device on those artifacts that run there.

    Raises:
        MissingBackend: none does.
    """
    if device == LOCAL:
        return ()
    with connect(device) as session:
        refusals = {artifact.path: refusal_there(session, artifact.format) for _, artifact in parts}
        if all(refusals.values()):
            raise MissingBackend(f"Nothing of {subject} runs on {device}: {' '.join(dict.fromkeys(refusals.values()))}")
        return tuple(
            report
            for path, artifact in parts
            for report in check_there(session, path, artifact, comparison.reference_outputs)
        )


def _findings(path: Path, artifact: Artifact) -> Sequence[Finding]:
    """Returns what in an artifact will cost speed or precision on a device."""
    part = FORMATS[artifact.format].findings
    found: Sequence[Finding] = () if part is None else registry.imported(part).lint(path, artifact.path)
    return found


def _watched(
    subject: Path, parts: Sequence[tuple[Path, Artifact]], comparison: _Comparison
) -> Iterator[OverflowReport]:
    """Yields the ranges of the values of every artifact in which they can be watched.

    Raises:
        BadRecipe: there is no such artifact.
    """
    watched = [(path, artifact) for path, artifact in parts if FORMATS[artifact.format].overflow is not None]
    if not watched:
        titles = " or ".join(kind.title for kind in FORMATS.values() if kind.overflow is not None)
        raise BadRecipe(f"{subject} holds no {titles} artifact, whose values --overflow watches.")
    for path, artifact in watched:
        yield check_overflow(path, artifact, comparison.reference_outputs.data, comparison.reference_outputs.spec)
