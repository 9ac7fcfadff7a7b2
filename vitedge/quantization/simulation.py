# SPDX-License-Identifier: Apache-2.0
"""What PyTorch makes of a quantized program: the numbers that every runtime is held to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from vitedge.parity.artifact import feed
from vitedge.program.execution import Execution
from vitedge.program.program import Program
from vitedge.records import OutputParity, ParityReport

TOLERANCE_DB = 1.0
"""How much farther than the simulation a runtime may be from the reference: single roundings that fall otherwise."""


def simulate(program: Program, images: NDArray[np.uint8]) -> Mapping[str, NDArray[np.float32]]:
    """Runs a program over images; one of a fixed batch gets its last batch filled up with repetitions.

    Args:
        program: at any batch.
        images: ``(images, channels, height, width)``, RGB, 0 to 255.

    Returns:
        Output name to its values for all images.
    """
    image = program.inputs[0]
    size = image.shape[0] if isinstance(image.shape[0], int) else len(images)
    run = Execution(program.exported)
    batches = (images[np.arange(start, start + size) % len(images)] for start in range(0, len(images), size))
    parts = [run(torch.from_numpy(np.array(feed(batch, image, program.spec)))) for batch in batches]
    names = (output.name for output in program.outputs)
    return {
        name: torch.cat(part)[: len(images)].numpy() for name, part in zip(names, zip(*parts, strict=True), strict=True)
    }


def hold_to(report: ParityReport, simulated: tuple[OutputParity, ...]) -> ParityReport:
    """The verdict on a runtime, which fails where the runtime is not as near to the reference as the simulation is.

    Args:
        report: a runtime against the reference.
        simulated: PyTorch against the reference, on the same images.
    """
    said = ", ".join(f"{output.centred_sqnr_db:.1f} dB" for output in simulated)
    report = replace(report, note=f"{report.note + '; ' if report.note else ''}simulated by PyTorch: {said}")
    for found, expected in zip(report.outputs, simulated, strict=True):
        if report.passed and found.centred_sqnr_db < expected.centred_sqnr_db - TOLERANCE_DB:
            reason = (
                f"{found.output} has {found.centred_sqnr_db:.1f} dB centred SQNR where the simulation has "
                f"{expected.centred_sqnr_db:.1f} dB: the runtime rounds elsewhere than the program"
            )
            return replace(report, passed=False, reason=reason)
    return report
