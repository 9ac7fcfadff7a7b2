# SPDX-License-Identifier: Apache-2.0
"""The verdict on a bundle or an artifact that is already there.

A sealed bundle is judged from its own ``reference.npz``; PyTorch is imported only to compare with a checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vitedge import registry
from vitedge.bundle import MANIFEST, check_files, read_manifest, read_reference
from vitedge.comparison import FORMAT_OF, Evidence, Floats, check_parity, check_structure, compare_layers
from vitedge.errors import BadRecipe, UnreadableArtifact
from vitedge.parity import default_bar
from vitedge.recipe import IMAGE_COUNT, ExportRecipe
from vitedge.records import Artifact, Bar, Manifest, ParityReport, StructureReport, Validation
from vitedge.serialization import from_dict


@dataclass(frozen=True)
class Against:
    """What an artifact is compared with."""

    checkpoint: str
    images: str = "synthetic"
    image_count: int = IMAGE_COUNT
    layers: bool = False
    bar: Bar | None = None
    """None takes the bundle's, or the default of the precision and the family."""
    weights: str | None = None
    """Which set of weights, where the file holds several; None takes the bundle's."""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Facts of the checkpoint to values; they go over those that the bundle was exported with."""


def validate(subject: Path, against: Against | None = None) -> Validation:
    """Checks a bundle's files and shows its parity again, or compares with a checkpoint.

    Args:
        subject: a bundle, an ``.onnx`` file or an ``.mlpackage``.
        against: the checkpoint and the images to compare with; a bundle needs neither.

    Raises:
        BundleDamaged: a file of the bundle is not the one that its manifest describes.
        UnreadableArtifact: the subject is neither a bundle nor an artifact.
        BadRecipe: an artifact without a checkpoint to compare it with.
    """
    if not subject.exists():
        raise UnreadableArtifact(f"{subject} is not there.")
    if subject.is_dir() and (subject.suffix not in FORMAT_OF or (subject / MANIFEST).is_file()):
        manifest = read_manifest(subject)
        files = check_files(subject, manifest)
        parts = tuple((subject / artifact.path, artifact) for artifact in manifest.artifacts)
        return _verdict(subject, parts, _Basis.of_bundle(subject, manifest, against), files)
    if subject.suffix not in FORMAT_OF:
        raise UnreadableArtifact(f"{subject} is neither a bundle nor an .onnx file nor an .mlpackage.")
    if against is None:
        raise BadRecipe(f"{subject} is not a bundle: add --against CHECKPOINT to say what it has to compute.")
    artifact = registry.load(registry.CHECKS, FORMAT_OF[subject.suffix]).describe(subject)
    return _verdict(subject, ((subject, artifact),), _Basis.of_artifact(artifact, against), 0)


@dataclass(frozen=True)
class _Basis:
    """What the artifacts are judged by."""

    evidence: Evidence
    blocks: Floats | None = None
    """The reference's block outputs, where they are to be compared."""
    weights: Callable[[Artifact], Mapping[str, Any]] | None = None
    """What the constants of an artifact that cannot be run have to hold, where the checkpoint is at hand."""

    @staticmethod
    def of_bundle(folder: Path, manifest: Manifest, against: Against | None) -> _Basis:
        recipe = from_dict(ExportRecipe, manifest.recipe)
        data = read_reference(folder)
        bar = recipe.bar or default_bar(recipe.precision, manifest.spec.family)
        if against is None:
            source = manifest.parity[0].image_source if manifest.parity else recipe.images
            return _Basis(Evidence(data, manifest.spec, bar, source))
        against = replace(
            against,
            bar=against.bar or bar,
            weights=against.weights or recipe.weights,
            overrides={**recipe.overrides, **against.overrides},
        )
        return _Basis.of_checkpoint(against, manifest.spec.image_size, features="logits" not in data.outputs)

    @staticmethod
    def of_artifact(artifact: Artifact, against: Against) -> _Basis:
        return _Basis.of_checkpoint(
            against, _image_size(artifact), features=len(artifact.outputs) > 1, precision=artifact.precision
        )

    @staticmethod
    def of_checkpoint(
        against: Against, image_size: tuple[int, int], *, features: bool, precision: str = "fp32"
    ) -> _Basis:
        # PyTorch from here on, and only here: a sealed bundle is validated without it.
        from vitedge import evidence as from_reference  # noqa: PLC0415
        from vitedge.calibration.images import load  # noqa: PLC0415
        from vitedge.checkpoints.read import read  # noqa: PLC0415
        from vitedge.models.reference import load_reference  # noqa: PLC0415

        reference = load_reference(
            read(against.checkpoint, weights=against.weights, overrides=against.overrides), image_size
        )
        images = load(against.images, reference.spec, against.image_count)
        bar = against.bar or default_bar(precision, reference.spec.family)
        found = from_reference.gather(reference, images, bar, features=features or reference.spec.classes == 0)
        blocks = from_reference.gather_blocks(reference, found) if against.layers else None
        return _Basis(found, blocks, lambda artifact: from_reference.weights(reference, artifact))


def _verdict(subject: Path, parts: Iterable[tuple[Path, Artifact]], basis: _Basis, files: int) -> Validation:
    parity: list[ParityReport] = []
    structure: list[StructureReport] = []
    for path, artifact in parts:
        report = check_parity(path, artifact, basis.evidence)
        if report is not None:
            if basis.blocks and artifact.blocks:
                report = compare_layers(report, path, artifact, basis.blocks, basis.evidence)
            parity.append(report)
        weights = basis.weights(artifact) if basis.weights and report is None else None
        structure.append(check_structure(path, artifact, weights))
    passed = all(report.passed for report in parity) and all(report.passed for report in structure)
    return Validation(str(subject), tuple(parity), tuple(structure), files, passed)


def _image_size(artifact: Artifact) -> tuple[int, int]:
    """Height and width that an artifact was made for.

    Raises:
        UnreadableArtifact: it does not take one image tensor of a fixed size.
    """
    shape = artifact.inputs[0].shape if len(artifact.inputs) == 1 else ()
    if len(shape) != 4 or not isinstance(shape[2], int) or not isinstance(shape[3], int):
        raise UnreadableArtifact(
            f"{artifact.path} does not take one image (batch, channels, height, width) of a fixed size."
        )
    return shape[2], shape[3]
