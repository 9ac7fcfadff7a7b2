# SPDX-License-Identifier: Apache-2.0
"""Renders a comparison: one table of what was made, which one to ship and why, and the command that makes it."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator

from rich import filesize

from vitedge.registry import LOCAL
from vitedge.render.screen import document, lines, next_command, show, table
from vitedge.verbs.records import WITHIN, Candidate, Comparison


def render(result: Comparison, *, as_json: bool) -> None:
    """Prints size, latency, top-1 and parity of every candidate, the one to ship, why, and the command for it."""
    if as_json:
        return document(result)
    counted = ("top-1",) if result.reference else ()
    drawn = table("artifact", "ship", "size", "ms", "95 %", *counted, "SQNR dB", right=range(2, 5 + len(counted) + 1))
    if result.reference is not None:
        drawn.add_row("reference (PyTorch)", "", "-", "-", "-", f"{result.reference.top1.share:.2%}", "-")
    for one in result.candidates:
        drawn.add_row(one.name, _mark(one, result), *_cells(one, counted=bool(counted)))
    show(drawn)
    where = "this machine" if result.device == LOCAL else result.device
    lines(
        f"times in milliseconds on {where}, median of a round and its 95 % interval, measured in turn",
        *([f"top-1 on {result.label_source}"] if result.label_source else []),
        *(line for one in result.candidates for line in _remarks(one)),
        *(f"note: {note}" for note in result.notes),
        *([f"{result.device} failed: {result.failed}"] if result.failed else []),
        f"recommended: {result.recommended}: {result.why}"
        if result.recommended
        else f"recommended: none: {result.why}",
        *_end(result),
    )
    return None


def _mark(one: Candidate, result: Comparison) -> str:
    if one.name == result.recommended:
        return "recommended"
    return "" if one.outcome == WITHIN else one.outcome.upper() if one.outcome == "failed" else one.outcome


def _cells(one: Candidate, *, counted: bool) -> Iterator[str]:
    yield "-" if one.artifact is None else filesize.decimal(one.artifact.size)
    times = one.latency.typical_ms if one.latency is not None else None
    yield from ("-", "-") if times is None else (_number(times[1]), f"{_number(times[0])}-{_number(times[2])}")
    if counted:
        yield "-" if one.accuracy is None else f"{one.accuracy.top1.share:.2%}"
    found = [row.centred_sqnr_db for report in one.parity for row in report.outputs]
    finite = [value for value in found if not math.isnan(value)]
    yield f"{min(finite):.1f}" if finite else "-"


def _number(value: float) -> str:
    return f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def _remarks(one: Candidate) -> Iterator[str]:
    if one.reason:
        yield f"{one.name}: {one.outcome}: {one.reason}"
    if one.not_timed:
        yield f"{one.name}: not timed: {one.not_timed}"


def _end(result: Comparison) -> Iterator[str]:
    for name, path in result.kept.items():
        yield f"{name} is kept in {path}"
    yield f"{len(result.candidates)} compared in {result.seconds:.0f} s"
    if result.kept:
        if result.command:
            yield f"made by: {result.command}"
        yield next_command(f"vitedge validate {shlex.quote(result.kept[result.recommended])}")
    elif result.command:
        yield next_command(result.command)
