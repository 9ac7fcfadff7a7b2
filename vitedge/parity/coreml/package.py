# SPDX-License-Identifier: Apache-2.0
"""Adds the comparison of every layer to the parity report on a Core ML package."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from vitedge.parity.artifact import ReferenceOutputs
from vitedge.parity.check import LAYER_IMAGES, Original
from vitedge.parity.coreml.layers import compare_program
from vitedge.records import Artifact, ParityReport
from vitedge.runtimes.feeding import as_input


def compare_layers(
    report: ParityReport, path: Path, artifact: Artifact, original: Original, reference_outputs: ReferenceOutputs
) -> ParityReport:
    """Returns the report with every layer of a Core ML package compared, each on the reference's own inputs.

    A layer that exceeds its tolerance fails the report even where the outputs are within theirs: the noise of half
    precision can hide a wrong scale in the outputs.

    Args:
        report: on the package's outputs.
        path: the package.
        artifact: its input and its precision.
        original: the captured program that was converted, or the reference.
        reference_outputs: the images.
    """
    images = as_input(reference_outputs.data.images[:LAYER_IMAGES], artifact.inputs[0], reference_outputs.spec)
    found = compare_program(path, original.captured(artifact), images)
    first, lost = found.first_departure, found.unmatched
    # Somebody else's package may be of another model: the few modules that were found say nothing of the rest.
    missing = f"; {len(lost)} modules with weights, such as {lost[0]}, were not found in it" if lost else ""
    if first:
        said = f"{report.reason}; the first to depart is {first}" if report.reason else f"{first} departs"
        return replace(report, layers=found.layers, first_departure=first, reason=said + missing, passed=False)
    compressed = len(found.unchecked)
    told = f"{compressed} values come from compressed weights" if compressed else "every layer is within its tolerance"
    reason = f"{report.reason}; {told}{missing}" if report.reason else ""
    return replace(report, layers=found.layers, reason=reason)
