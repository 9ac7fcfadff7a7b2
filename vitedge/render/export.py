# SPDX-License-Identifier: Apache-2.0
"""Renders the bundle that `export` wrote, with the parity of its artifacts."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import filesize
from rich.table import Table

from vitedge import registry
from vitedge.export.formats import FORMATS
from vitedge.guide.readme import README
from vitedge.records import Artifact
from vitedge.registry import LOCAL
from vitedge.render.following import kit_command
from vitedge.render.parity import report_table
from vitedge.render.prune import step_lines
from vitedge.render.screen import document, lines, next_command, show, table
from vitedge.verbs.records import ExportResult


def render(result: ExportResult, *, as_json: bool) -> None:
    """Prints the artifacts, their parity and the command to type next."""
    if as_json:
        return document(result)
    manifest = result.manifest
    images, seconds = max((report.images for report in manifest.parity), default=0), sum(result.seconds.values())
    show(_artifact_table(manifest.artifacts))
    report_table(manifest.parity, manifest.structure)
    lines(
        *step_lines(manifest.steps),
        *_notes(manifest.artifacts),
        *(f"note: {note}" for note in manifest.spec.notes),
        *dict.fromkeys(line for record in manifest.quantization.values() for line in _quantized(record)),
        *([] if manifest.speed is None else [f"speed: {manifest.speed.text}"]),
        *result.pending,
        f"{result.bundle}: {_sizes(manifest.artifacts)}, verified on {images} images, in {seconds:.1f} s",
        *_beside(result),
        next_command(_following(result.bundle, manifest.artifacts, manifest.recipe.get("device", LOCAL))),
    )
    return None


def _notes(artifacts: Iterable[Artifact]) -> Iterator[str]:
    """Yields the notes on artifacts; what is said of several, once."""
    found: dict[str, list[str]] = {}
    for artifact in artifacts:
        for note in artifact.notes:
            found.setdefault(note, []).append(artifact.path)
    yield from (f"note: {', '.join(paths)}: {note}" for note, paths in found.items())


def _sizes(artifacts: Sequence[Artifact]) -> str:
    """Returns the size of each artifact, without what lies beside it in the bundle."""
    return ", ".join(f"{artifact.path} {filesize.decimal(artifact.size)}" for artifact in artifacts)


def _beside(result: ExportResult) -> Iterator[str]:
    """Yields which file explains the bundle, and what the files beside the artifacts take."""
    others = result.size - sum(artifact.size for artifact in result.manifest.artifacts)
    if README in result.manifest.files:
        yield (
            f"{Path(result.bundle) / README}: how to use it; the reference outputs and programs take "
            f"{filesize.decimal(others)} more"
        )


def _quantized(record: Mapping[str, Any]) -> Iterator[str]:
    """Yields what a quantization, as plain values of its record, was applied to."""
    yield from (f"note: {note}" for note in record["notes"])
    if record.get("share") is not None:
        scheme = "int8" if record["scheme"] == "mixed" else record["scheme"]
        yield f"quantized: {record['share']:.1%} of the weights are {scheme}"


def _following(bundle: str, artifacts: Iterable[Artifact], device: str) -> str:
    """Returns the command that measures the bundle, or what can be done with it on a machine where it does not run.

    An engine that does not run here is what the bundle is for: then it is checked. Where nothing runs, a kit for a Mac
    is written.
    """
    if device != LOCAL:
        return f"vitedge bench {shlex.quote(bundle)} --device {shlex.quote(device)}"
    kinds = [FORMATS[artifact.format] for artifact in artifacts]
    if any(kind.made_from and not registry.works_here(registry.RUNTIMES, kind.runtimes[-1]) for kind in kinds):
        return f"vitedge validate {shlex.quote(bundle)}"
    runtimes = {kind.runtimes[-1] for kind in kinds}
    if any(registry.works_here(registry.RUNTIMES, name) for name in runtimes):
        return f"vitedge bench {shlex.quote(bundle)}"
    return kit_command(Path(bundle))


def _artifact_table(artifacts: Iterable[Artifact]) -> Table:
    drawn = table("artifact", "target", "precision", "input", "size", right=(4,))
    for artifact in artifacts:
        image = artifact.inputs[0]
        shape = "x".join(str(edge) for edge in image.shape)
        drawn.add_row(
            artifact.path,
            artifact.target,
            artifact.precision,
            f"{shape} {image.dtype}",
            filesize.decimal(artifact.size),
        )
    return drawn
