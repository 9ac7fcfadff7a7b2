# SPDX-License-Identifier: Apache-2.0
"""Renders the file that `prune` wrote: what was removed, and what it cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import filesize
from rich.table import Table

from vitedge.pruning.records import PruningRecord, PruningResult, Structured
from vitedge.records import Step
from vitedge.render.following import export_command
from vitedge.render.screen import document, lines, next_command, show, table

_SHOWN = ("heads", "mlp", "macs", "latency", "sparsity", "merge", "recover", "epochs")
"""Entries of a recipe that say what was done."""


def render(done: PruningResult, *, parts: bool = False, as_json: bool) -> None:
    """Prints the summary, and with ``parts`` all parts."""
    if as_json:
        return document(done)
    record = done.record
    if parts and record.structured:
        show(
            _part_table(record.structured), "the parts, with the error of the layer behind before and after its refit:"
        )
    show(_frontier_table(record), "what each step left of the dense model:")
    lines(
        f"{done.variant}: {' '.join(_counts(record))}",
        *(f"note: {note}" for note in record.notes),
        _distance(record),
        *([f"budget exceeded: {done.failed}; it was written all the same"] if done.failed else []),
        f"{done.path}: {filesize.decimal(done.size)}, in {sum(record.seconds.values()):.1f} s",
        next_command(export_command(done.path)),
    )
    return None


def step_lines(steps: Sequence[Step]) -> Iterator[str]:
    """Yields a line for each step that weights went through: what was asked for, and the distance to what was before.

    The distance to the dense model is what a step cost; parity is measured against the model that it left.
    """
    for step in steps:
        asked = " ".join(f"--{name} {_said(step.recipe[name])}" for name in _SHOWN if _is_said(step.recipe, name))
        found = float(step.result["distance"]["sqnr_db"])  # a file has infinity as a word
        yield (
            f"step: {step.verb} {asked} of {Path(step.source.source).name} ({step.source.sha256[:12]}): "
            f"{found:.1f} dB centred SQNR against it"
        )


def _is_said(recipe: Mapping[str, Any], name: str) -> bool:
    """Whether an entry was given: 0 tokens or zeros can be asked for, 0 epochs are none."""
    return recipe.get(name) is not None and (name != "epochs" or bool(recipe[name]))


def _said(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _counts(record: PruningRecord) -> Iterator[str]:
    before, after = record.gmacs
    yield f"{after / before:.3f} of the multiply-accumulates ({before:.3g} to {after:.3g} G),"
    yield f"{record.parameters[0]:,} to {record.parameters[1]:,} parameters"


def _distance(record: PruningRecord) -> str:
    found = record.distance
    agreement = "" if found.agreement is None else f", {found.agreement:.1%} of the images keep their top-1"
    return (
        f"against the dense model: {found.sqnr_db:.1f} dB centred SQNR{agreement} on {found.images} images "
        f"({found.image_source})"
    )


def _frontier_table(record: PruningRecord) -> Table:
    drawn = table("model", "MACs", "SQNR dB", "top-1", right=range(1, 4))
    for point in record.frontier:
        drawn.add_row(
            point.name,
            f"{point.macs:.3f}",
            "-" if point.sqnr_db is None else f"{point.sqnr_db:.1f}",
            "-" if point.top1 is None else f"{point.top1:.2%}",
        )
    return drawn


def _part_table(structured: Structured) -> Table:
    drawn = table("part", "kept", "of", "error", "refitted", right=range(1, 5))
    for part in structured.parts:
        before, after = part.error_before, part.error_after
        drawn.add_row(
            part.part,
            str(part.kept),
            str(part.units),
            "-" if before is None else f"{before:.2e}",
            "-" if after is None else f"{after:.2e}",
        )
    return drawn
