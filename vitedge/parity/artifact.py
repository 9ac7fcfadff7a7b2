# SPDX-License-Identifier: Apache-2.0
"""Compares one artifact with its reference by running it, or checks its structure without running it.

Imports no PyTorch: the reference's outputs come as arrays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vitedge import registry
from vitedge.errors import BadRecipe, UnreadableArtifact
from vitedge.export.formats import CHECKERS, FORMATS
from vitedge.files.bundle import ReferenceData, read_reference
from vitedge.files.plain import from_dict
from vitedge.mlprogram import COMPUTE
from vitedge.parity.metrics import compare, default_tolerance, exceeded
from vitedge.progress import stage
from vitedge.recipe import ResolvedRecipe
from vitedge.records import Artifact, Manifest, ModelSpec, ParityReport, StructureReport, Tolerance
from vitedge.runtimes.base import Runtime
from vitedge.runtimes.feeding import output_names, run

Floats = Mapping[str, npt.NDArray[np.float32]]


@dataclass(frozen=True)
class ReferenceOutputs:
    """The outputs of the reference over its images, and the tolerance that artifacts are checked with."""

    data: ReferenceData
    """Images, and the reference's outputs for them."""
    spec: ModelSpec
    """The model, with the preprocessing that leads from images to inputs."""
    tolerance: Tolerance
    image_source: str
    """The phrase of `vitedge.parity.reference.describe` that goes into reports."""
    notes: tuple[str, ...] = ()
    """Sentences on images that could not be read, and on fewer than asked for."""


def sealed_outputs(bundle: Path, manifest: Manifest) -> ReferenceOutputs:
    """Returns the reference outputs and the tolerance that a bundle has sealed.

    Args:
        bundle: the folder.
        manifest: of the bundle.

    Raises:
        BundleDamaged: its ``reference.npz`` cannot be read.
    """
    recipe = from_dict(ResolvedRecipe, manifest.recipe)
    tolerance = recipe.tolerance or default_tolerance(recipe.precision, manifest.spec.family)
    source = manifest.parity[0].image_source if manifest.parity else recipe.images
    return ReferenceOutputs(read_reference(bundle), manifest.spec, tolerance, source)


def check_parity(
    path: Path, artifact: Artifact, reference_outputs: ReferenceOutputs, compute: str = "declared"
) -> tuple[ParityReport, ...]:
    """Runs an artifact over the reference's images in every runtime that is installed, and compares its outputs.

    Args:
        path: the artifact.
        artifact: its inputs and outputs.
        reference_outputs: the images, the reference's outputs for them, and the tolerance.
        compute: ``declared``, or ``fp32`` for a Core ML package without the rounding of half precision.

    Returns:
        One report a runtime; none where no runtime of the format works on this machine.

    Raises:
        BadRecipe: ``compute`` is neither of the two.
        MissingBackend: the format has one runtime, and it is not installed.
    """
    return tuple(_run_in(name, path, artifact, reference_outputs) for name in _runtimes(artifact.format, compute))


def _runtimes(name: str, compute: str) -> tuple[str, ...]:
    """Returns the runtimes that a format is checked in on this machine."""
    kind = FORMATS[name]
    names = kind.runtimes
    if compute not in COMPUTE:
        raise BadRecipe(f"There is no --compute {compute}; choose from {', '.join(COMPUTE)}.")
    if compute == "fp32":
        names = tuple(kind.without_rounding.get(name, name) for name in names[:1])
    here = tuple(name for name in names if registry.works_here(registry.RUNTIMES, name))
    # A format with two runtimes needs neither installed, nor does one that is made from another, which is run instead:
    # its structure is checked without them.
    optional = len(names) > 1 or bool(kind.made_from)
    return tuple(name for name in here if not (optional and registry.missing(registry.RUNTIMES, name)))


def _run_in(name: str, path: Path, artifact: Artifact, reference_outputs: ReferenceOutputs) -> ParityReport:
    with stage(f"{artifact.path} in {name}"):
        return _compared_in(name, path, artifact, reference_outputs)


def _compared_in(name: str, path: Path, artifact: Artifact, reference_outputs: ReferenceOutputs) -> ParityReport:
    with registry.load(registry.RUNTIMES, name).Runtime(path) as runtime:
        report = report_on(name, artifact, outputs_of(runtime, artifact, reference_outputs), reference_outputs)
        return replace(report, note=runtime.describe().get("caveat", ""))


def outputs_of(
    runtime: Runtime, artifact: Artifact, reference_outputs: ReferenceOutputs
) -> dict[str, npt.NDArray[np.generic]]:
    """Runs a loaded artifact over the reference's images; returns its outputs, each ``(images, …)``, by name."""
    data = reference_outputs.data
    return run(runtime, artifact, data.images, reference_outputs.spec, output_names(data.outputs, artifact))


def report_on(
    runtime: str, artifact: Artifact, values: Mapping[str, npt.NDArray[np.generic]], reference_outputs: ReferenceOutputs
) -> ParityReport:
    """Compares the outputs of an artifact in one runtime with the reference's.

    Args:
        runtime: name of the runtime.
        artifact: the artifact that it ran.
        values: output name to the values for all images, ``(images, …)``.
        reference_outputs: the reference's outputs and the tolerance.
    """
    outputs = compare(reference_outputs.data.outputs, values)
    reason = exceeded(outputs, reference_outputs.tolerance)
    return ParityReport(
        artifact=artifact.path,
        runtime=runtime,
        images=len(reference_outputs.data.images),
        image_source=reference_outputs.image_source,
        tolerance=reference_outputs.tolerance,
        outputs=outputs,
        passed=not reason,
        reason=reason,
    )


def image_size(artifact: Artifact) -> tuple[int, int]:
    """Returns the height and width in pixels that an artifact takes.

    Raises:
        UnreadableArtifact: it does not take one image tensor of a fixed size.
    """
    shape = artifact.inputs[0].shape if len(artifact.inputs) == 1 else ()
    if len(shape) != 4 or not isinstance(shape[2], int) or not isinstance(shape[3], int):
        raise UnreadableArtifact(
            f"{artifact.path} does not take one image (batch, channels, height, width) of a fixed size."
        )
    return shape[2], shape[3]


def check_structure(path: Path, artifact: Artifact, weights: Mapping[str, Any] | None = None) -> StructureReport:
    """Checks an artifact without running it, with the checker of its format.

    Args:
        path: the artifact.
        artifact: its description, which the file has to agree with.
        weights: the weights that the format expects in the file, by name; None leaves them unchecked.
    """
    report: StructureReport = registry.load(CHECKERS, artifact.format).check(path, artifact, weights)
    return report
