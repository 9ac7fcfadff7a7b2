# SPDX-License-Identifier: Apache-2.0
"""Compares the blocks of an artifact whose inner values can be read with the reference's modules."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from vitedge import registry
from vitedge.parity.artifact import ReferenceOutputs
from vitedge.parity.check import LAYER_IMAGES, Original
from vitedge.parity.metrics import compare, exceeded
from vitedge.records import Artifact, ParityReport
from vitedge.runtimes.feeding import run


def compare_layers(
    report: ParityReport, path: Path, artifact: Artifact, original: Original, reference_outputs: ReferenceOutputs
) -> ParityReport:
    """Returns the report with every block compared, and with the first block that exceeds the tolerance.

    Args:
        report: on the artifact's outputs.
        path: the artifact.
        artifact: says which of its values equals the output of which block.
        original: its reference computes the blocks; without one nothing is compared.
        reference_outputs: the images and the tolerance.
    """
    if original.reference is None or not artifact.blocks:
        return report
    images = reference_outputs.data.images[:LAYER_IMAGES]
    blocks = original.reference.block_outputs(images)
    # In the reference's order of execution: a file's metadata need not keep it.
    values = {block: artifact.blocks[block] for block in blocks if block in artifact.blocks}
    with registry.load(registry.RUNTIMES, report.runtime).Runtime(
        path, intermediates=tuple(values.values())
    ) as runtime:
        found = run(runtime, artifact, images, reference_outputs.spec, values)
    layers = compare({block: blocks[block] for block in values}, found, scores=None)
    # A block may well be the same for every image, and a tolerance on top-1 says nothing of it.
    departing = [
        layer.output for layer in layers if exceeded((replace(layer, degenerate=""),), reference_outputs.tolerance)
    ]
    first = departing[0] if departing else "" if report.passed else "the head, after the last block"
    reason = f"{report.reason}; the first to depart is {first}" if report.reason else ""
    return replace(report, layers=layers, first_departure=first, reason=reason)
