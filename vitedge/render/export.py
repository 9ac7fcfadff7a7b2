# SPDX-License-Identifier: Apache-2.0
"""The bundle that `export` wrote, and how well its artifacts compute."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from rich.table import Table

from vitedge.records import Artifact, ExportResult
from vitedge.render.parity import verdicts
from vitedge.render.quantize import verdict
from vitedge.render.screen import document, lines, next_command, readable_size, show, table


def render(result: ExportResult, *, as_json: bool) -> None:
    """Prints the artifacts, their parity and what to type next."""
    if as_json:
        return document(result)
    manifest = result.manifest
    show(_artifact_table(manifest.artifacts))
    verdicts(manifest.parity, manifest.structure)
    lines(
        *(f"note: {artifact.path}: {note}" for artifact in manifest.artifacts for note in artifact.notes),
        *(f"note: {note}" for note in manifest.spec.notes),
        *verdict(manifest.quantization),
        *result.pending,
        f"{result.bundle}: {readable_size(result.size)}, verified, in {sum(result.seconds.values()):.1f} s",
        next_command(f"vitedge bench {shlex.quote(result.bundle)}"),
    )
    return None


def _artifact_table(artifacts: Iterable[Artifact]) -> Table:
    drawn = table("artifact", "target", "precision", "input", "size", right=(4,))
    for artifact in artifacts:
        image = artifact.inputs[0]
        shape = "x".join(str(edge) for edge in image.shape)
        drawn.add_row(
            artifact.path, artifact.target, artifact.precision, f"{shape} {image.dtype}", readable_size(artifact.size)
        )
    return drawn
