# SPDX-License-Identifier: Apache-2.0
"""The overflow check: the largest values of an artifact over its reference images, against float16's range."""

from __future__ import annotations

from pathlib import Path

from vitedge import registry
from vitedge.export.formats import FORMATS
from vitedge.files.bundle import ReferenceData
from vitedge.records import Artifact, ModelSpec, OverflowReport
from vitedge.runtimes.feeding import inputs


def check_overflow(path: Path, artifact: Artifact, data: ReferenceData, spec: ModelSpec) -> OverflowReport:
    """Checks the ranges of an artifact's values against float16; see `vitedge.mlprogram.overflow.check_overflow`.

    Args:
        path: the artifact.
        artifact: its format and its input.
        data: its images are run.
        spec: gives the preprocessing.

    Raises:
        ValueError: the values of that format cannot be watched.
        MissingBackend: PyTorch or coremltools is not installed.
        UserError: the artifact cannot be computed.
    """
    watch = FORMATS[artifact.format].overflow
    if watch is None:
        raise ValueError(f"{artifact.path} is not of a format whose values can be watched")
    image = artifact.inputs[0]
    feeds = ({image.name: batch} for batch in inputs(data.images, image, spec))
    report: OverflowReport = registry.imported(watch).check_overflow(path, feeds, artifact.path)
    return report
