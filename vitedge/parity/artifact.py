# SPDX-License-Identifier: Apache-2.0
"""One artifact against its reference: run it, compare its outputs and its blocks, look at what cannot be run.

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
from vitedge.files.bundle import ReferenceData, read_reference
from vitedge.images.preprocess import normalize
from vitedge.mlprogram import COMPUTE
from vitedge.parity.metrics import compare, default_bar, judge
from vitedge.recipe import ExportRecipe
from vitedge.records import Artifact, Bar, Manifest, ModelSpec, ParityReport, StructureReport, TensorSpec
from vitedge.serialization import from_dict

Floats = Mapping[str, npt.NDArray[np.float32]]

RUNTIMES_OF = {"onnx": ("onnxruntime",), "coreml": ("mlprogram", "coreml")}
"""Format of an artifact to the runtimes that show its parity; the last is the one that it is deployed in."""
_WITHOUT_ROUNDING = {"mlprogram": "mlprogram-fp32"}
"""Runtime to the one that computes the same artifact in float32 throughout."""
FORMAT_OF = {".onnx": "onnx", ".mlpackage": "coreml"}
"""Suffix of an artifact outside a bundle to its format."""
_DYNAMIC_BATCH = 4


@dataclass(frozen=True)
class Evidence:
    """What the reference computed, and the bar that an artifact has to reach."""

    data: ReferenceData
    spec: ModelSpec
    bar: Bar
    image_source: str


def sealed_evidence(bundle: Path, manifest: Manifest) -> Evidence:
    """What a bundle itself holds its artifacts to.

    Raises:
        BundleDamaged: its ``reference.npz`` cannot be read.
    """
    recipe = from_dict(ExportRecipe, manifest.recipe)
    bar = recipe.bar or default_bar(recipe.precision, manifest.spec.family)
    source = manifest.parity[0].image_source if manifest.parity else recipe.images
    return Evidence(read_reference(bundle), manifest.spec, bar, source)


def check_parity(
    path: Path, artifact: Artifact, evidence: Evidence, compute: str = "declared"
) -> tuple[ParityReport, ...]:
    """Runs an artifact over the reference's images, in every runtime that is to be had here, and judges it.

    Args:
        path: the artifact.
        artifact: its inputs and outputs.
        evidence: the images, what the reference made of them, and the bar.
        compute: ``declared``, or ``fp32`` for a Core ML package without the rounding of half precision.

    Returns:
        One report a runtime; none where the artifact runs in nothing that is to be had here.

    Raises:
        BadRecipe: there is no such way to compute.
        MissingBackend: a runtime that is all there is for the format is not installed.
    """
    return tuple(_judged(name, path, artifact, evidence) for name in _runtimes(artifact.format, compute))


def _runtimes(kind: str, compute: str) -> tuple[str, ...]:
    names = RUNTIMES_OF[kind]
    if compute not in COMPUTE:
        raise BadRecipe(f"There is no --compute {compute}; choose from {', '.join(COMPUTE)}.")
    if compute == "fp32":
        names = tuple(_WITHOUT_ROUNDING.get(name, name) for name in names[:1])
    here = tuple(name for name in names if registry.works_here(registry.RUNTIMES, name))
    # Where there are two, the structure shows what can be shown without either: nothing need be installed.
    optional = len(names) > 1
    return tuple(name for name in here if not (optional and registry.missing(registry.RUNTIMES, name)))


def _judged(name: str, path: Path, artifact: Artifact, evidence: Evidence) -> ParityReport:
    with registry.load(registry.RUNTIMES, name).Runtime(path) as runtime:
        report = judged(name, runtime, artifact, evidence)
        return replace(report, note=runtime.describe().get("caveat", ""))


def judged(name: str, runtime: Any, artifact: Artifact, evidence: Evidence) -> ParityReport:
    """The verdict on what a loaded runtime of that name makes of an artifact."""
    outputs = compare(evidence.data.outputs, run(runtime, artifact, evidence))
    reason = judge(outputs, evidence.bar)
    return ParityReport(
        artifact=artifact.path,
        runtime=name,
        images=len(evidence.data.images),
        image_source=evidence.image_source,
        bar=evidence.bar,
        outputs=outputs,
        passed=not reason,
        reason=reason,
    )


def run(
    runtime: Any, artifact: Artifact, evidence: Evidence, names: Mapping[str, str] | None = None
) -> dict[str, npt.NDArray[np.generic]]:
    """The artifact's values for all images of the evidence, under the reference's names.

    An artifact of a fixed batch gets its last batch filled up with repetitions, which are cut off again.

    Args:
        runtime: the artifact, loaded.
        artifact: its inputs and outputs.
        evidence: the images and what the reference calls its outputs.
        names: the reference's names to the artifact's; by default the same, or for someone else's file in their order.
    """
    image = artifact.inputs[0]
    images = evidence.data.images
    size = image.shape[0] if isinstance(image.shape[0], int) else min(_DYNAMIC_BATCH, len(images))
    parts: list[Mapping[str, npt.NDArray[np.generic]]] = []
    for start in range(0, len(images), size):
        batch = images[np.arange(start, start + size) % len(images)]
        parts.append(runtime.run({image.name: feed(batch, image, evidence.spec)}))
    pairs = names or _paired(tuple(evidence.data.outputs), tuple(spec.name for spec in artifact.outputs))
    return {
        ours: np.concatenate([part[theirs] for part in parts])[: len(images)]
        for ours, theirs in pairs.items()
        if all(theirs in part for part in parts)
    }


def feed(images: npt.NDArray[np.uint8], image: TensorSpec, spec: ModelSpec) -> npt.NDArray[np.generic]:
    """Images ``(batch, channels, height, width)``, RGB, 0 to 255, as an artifact's input wants them."""
    if image.dtype == "uint8" or image.pixels:
        return images.astype(image.dtype, copy=False)
    normalized = normalize(images, spec.preprocessing)
    return normalized.astype(np.float16) if image.dtype == "float16" else normalized


def image_size(artifact: Artifact) -> tuple[int, int]:
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


def check_structure(path: Path, artifact: Artifact, weights: Mapping[str, Any] | None = None) -> StructureReport:
    """What can be checked of an artifact without running it.

    Args:
        path: the artifact.
        artifact: what it is said to be.
        weights: the reference's ``state_dict``, where it is at hand.
    """
    report: StructureReport = registry.load(registry.CHECKS, artifact.format).check(path, artifact, weights)
    return report


def compare_layers(
    report: ParityReport, path: Path, artifact: Artifact, blocks: Floats, evidence: Evidence
) -> ParityReport:
    """The report with every block compared, and with the first block that misses the bar.

    Args:
        report: the verdict on the artifact's outputs.
        path: the artifact.
        artifact: says which of its values equals which block.
        blocks: module name to what the reference's module put out for the first images of the evidence.
        evidence: the images and the bar.
    """
    # In the reference's order of execution: a file's metadata need not keep it.
    values = {block: artifact.blocks[block] for block in blocks if block in artifact.blocks}
    expected = {block: blocks[block] for block in values}
    images = evidence.data.images[: len(next(iter(blocks.values())))]
    few = replace(evidence, data=ReferenceData(images, expected))
    with registry.load(registry.RUNTIMES, report.runtime).Runtime(
        path, intermediates=tuple(values.values())
    ) as runtime:
        found = run(runtime, artifact, few, names=values)
    layers = compare(expected, found, scores=None)
    # A block may well be the same for every image, and a bar on top-1 says nothing of it.
    departing = [layer.output for layer in layers if judge((replace(layer, degenerate=""),), evidence.bar)]
    first = departing[0] if departing else "" if report.passed else "the head, after the last block"
    reason = f"{report.reason}; the first to depart is {first}" if report.reason else ""
    return replace(report, layers=layers, first_departure=first, reason=reason)


def _paired(ours: tuple[str, ...], theirs: tuple[str, ...]) -> dict[str, str]:
    if set(ours) <= set(theirs) or len(ours) != len(theirs):
        return {name: name for name in ours}
    return dict(zip(ours, theirs, strict=True))
