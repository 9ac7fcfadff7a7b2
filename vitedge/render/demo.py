# SPDX-License-Identifier: Apache-2.0
"""Renders every artifact of the demo below its PyTorch model."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from rich import filesize

from vitedge.demo.records import DemoResult, DemoRow
from vitedge.render.screen import document, lines, next_command, show, table


def render(result: DemoResult, *, as_json: bool) -> None:
    """Prints size, parity, accuracy and latency of every artifact."""
    if as_json:
        return document(result)
    drawn = table("model", "runs as", "size", "relative", "SQNR dB", "top-1", "median ms", right=range(2, 7))
    shown, size = "", filesize.decimal(sum(row.size for row in result.rows))
    for row in result.rows:
        if row.model != shown:
            reference = ("-", "reference", "-", f"{row.reference_top1:.1%}", f"{row.reference_ms:.2f}")
            drawn.add_row(row.model, "PyTorch", *reference)
            shown = row.model
        drawn.add_row("", _demo_name(row), *_demo_cells(row))
    show(drawn)
    lines(
        f"top-1 on {result.images} test images; median latency at batch 1, measured in turn",
        *(f"{row.model}: {row.speed.text}" for row in result.rows if row.speed is not None),
        *_pruned_lines(result),
        *([result.engine] if result.engine else []),
        *_not_timed(result),
        f"{result.folder}: {len(result.rows)} artifacts of {size}, every one verified, in {result.seconds:.0f} s",
        next_command(f"vitedge validate {shlex.quote(result.folder)}/{result.rows[0].model.lower()}"),
    )
    return None


def _demo_name(row: DemoRow) -> str:
    words = (row.format, "" if row.pruning is None else "pruned", "" if row.precision == "fp32" else row.precision)
    return " ".join(word for word in words if word)


def _pruned_lines(result: DemoResult) -> Iterator[str]:
    """Yields what each model's pruning cost, and which model a pruned artifact was compared with."""
    pruned = {row.model: row.pruning for row in result.rows if row.pruning is not None}
    for model, found in pruned.items():
        yield f"{model}: pruned to {found.macs:.2f} of the MACs, {found.sqnr_db:.0f} dB from the dense PyTorch model"
    if pruned:
        images = max(found.images for found in pruned.values())
        yield (
            f"pruned: ranked and refitted on {images} of the test images, without their labels; relative and SQNR are "
            "against the pruned PyTorch model, top-1 is beside the dense one"
        )


def _not_timed(result: DemoResult) -> tuple[str, ...]:
    formats = dict.fromkeys(row.format for row in result.rows if row.median_ms is None)
    return tuple(f"{name}: computed op by op here; its own runtime is not on this machine" for name in formats)


def _demo_cells(row: DemoRow) -> tuple[str, ...]:
    return (
        filesize.decimal(row.size),
        f"{row.parity.relative_error:.1e}",
        f"{row.parity.centred_sqnr_db:.0f}",
        f"{row.top1:.1%}",
        "-" if row.median_ms is None else f"{row.median_ms:.2f}",
    )
