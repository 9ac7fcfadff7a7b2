# SPDX-License-Identifier: Apache-2.0
"""What the reference computes, as arrays that outlive it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from vitedge.files.bundle import ReferenceData
from vitedge.images.image_set import ImageSet
from vitedge.models.reference import Reference
from vitedge.parity.artifact import Evidence, Floats, compare_layers, feed
from vitedge.parity.coreml.layers import compare_program
from vitedge.program.capture import capture
from vitedge.program.program import Program
from vitedge.records import Artifact, Bar, ParityReport

LAYER_IMAGES = 2
"""Images for which blocks are compared: all their outputs are kept in memory at once."""


def gather(reference: Reference, images: ImageSet, bar: Bar, *, features: bool) -> Evidence:
    """Runs the reference over the images."""
    outputs = reference.outputs(images.pixels, features=features)
    return Evidence(ReferenceData(images.pixels, outputs), reference.spec, bar, describe(images))


def gather_blocks(reference: Reference, evidence: Evidence) -> Floats:
    """The output of every block for the first images of the evidence."""
    return reference.block_outputs(evidence.data.images[:LAYER_IMAGES])


def captured(reference: Reference, artifact: Artifact) -> Program:
    """The program of the reference that an artifact says it is: its input, its batch and its outputs."""
    image = artifact.inputs[0]
    uint8, features = image.dtype == "uint8" or image.pixels, len(artifact.outputs) > 1
    module = reference.deployed(uint8=uint8, features=features)
    batch = image.shape[0] if isinstance(image.shape[0], int) else 1
    return capture(
        module, reference.spec, reference.blocks, batch=batch, dtype="uint8" if uint8 else "float32", features=features
    )


def judge_layers(
    report: ParityReport, path: Path, artifact: Artifact, reference: Reference, evidence: Evidence
) -> ParityReport:
    """The report with every block of an ONNX file compared."""
    if not artifact.blocks:
        return report
    return compare_layers(report, path, artifact, gather_blocks(reference, evidence), evidence)


def judge_program(
    report: ParityReport, path: Path, artifact: Artifact, program: Program, evidence: Evidence
) -> ParityReport:
    """The report with every layer of a Core ML package compared, each on the reference's own inputs.

    A layer that departs fails the report even where the outputs hold their bar: in half precision a wrong scale may
    hide below it.

    Args:
        report: the verdict on the package's outputs.
        path: the package.
        artifact: its input and its precision.
        program: the captured reference, with the package's input.
        evidence: the images.
    """
    images = feed(evidence.data.images[:LAYER_IMAGES], artifact.inputs[0], evidence.spec)
    found = compare_program(path, program, images)
    first, lost = found.first_departure, found.unmatched
    # Somebody else's package may be of another model: then what little was found says nothing of the rest.
    missing = f"; {len(lost)} modules with weights, such as {lost[0]}, were not found in it" if lost else ""
    if first:
        said = f"{report.reason}; the first to depart is {first}" if report.reason else f"{first} departs"
        return replace(report, layers=found.layers, first_departure=first, reason=said + missing, passed=False)
    told = f"{len(found.unjudged)} values come of compressed weights" if found.unjudged else "every layer holds its bar"
    reason = f"{report.reason}; {told}{missing}" if report.reason else ""
    return replace(report, layers=found.layers, reason=reason)


def describe(images: ImageSet) -> str:
    """Where the images came from, with the hash of what was made of them."""
    return f"{images.source}, SHA-256 {images.sha256[:16]}"
