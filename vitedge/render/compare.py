# SPDX-License-Identifier: Apache-2.0
"""Renders a comparison: one table of what was made, which one to ship and why, and the command that makes it."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator
from pathlib import Path

from rich import filesize

from vitedge.registry import LOCAL
from vitedge.render.screen import document, lines, next_command, show, table
from vitedge.verbs.records import FAILED, NOT_MADE, WITHIN, Candidate, Comparison

_SHOWN = {WITHIN: "passed", FAILED: "FAILED", NOT_MADE: NOT_MADE}
"""Outcome to what the table calls it."""
_WITHOUT_LINE = 1
"""Images of top-1 lost and gained up to which the column says all."""


def render(result: Comparison, *, as_json: bool) -> None:
    """Prints size, latency, top-1 and parity of every candidate, the one to ship, why, and the command for it."""
    if as_json:
        return document(result)
    is_counted = result.reference is not None
    counted = ("top-1", "points") if is_counted else ()
    figures = ("size", "ms", "95 %", *counted, "SQNR dB")
    drawn = table("artifact", *figures, "", right=range(1, 1 + len(figures)))
    if result.reference is not None:
        drawn.add_row("PyTorch", "-", "-", "-", f"{result.reference.top1.share:.2%}", "-", "-", "reference")
    for one in result.candidates:
        outcome = "recommended" if one.name == result.recommended else _SHOWN[one.outcome]
        drawn.add_row(one.name, *_cells(one, is_counted=is_counted), outcome)
    show(drawn)
    lines(
        *_legend(result),
        *(line for one in result.candidates for line in _remarks(one)),
        *_not_timed(result),
        *(f"note: {note}" for note in result.notes),
        *([f"{result.device} failed: {result.failed}"] if result.failed else []),
        f"recommended: {result.recommended or 'none'}: {result.why}",
        *_end(result),
    )
    return None


def _cells(one: Candidate, *, is_counted: bool) -> Iterator[str]:
    yield "-" if one.artifact is None else filesize.decimal(one.artifact.size)
    times = None if one.latency is None else one.latency.typical_ms
    yield from ("-", "-") if times is None else (_number(times[1]), f"{_number(times[0])}-{_number(times[2])}")
    if is_counted:
        yield "-" if one.accuracy is None else f"{one.accuracy.top1.share:.2%}"
        yield "-" if one.loss is None else f"{0 - one.loss.drop_points:+.2f}"
    found = [row.centred_sqnr_db for report in one.parity for row in report.outputs]
    known = [value for value in found if not math.isnan(value)]
    yield f"{min(known):.1f}" if known else "-"


def _number(milliseconds: float) -> str:
    """Returns milliseconds with three digits or more, and at most three decimals."""
    decimals = next((count for count, least in enumerate((100, 10, 1)) if milliseconds >= least), 3)
    return f"{milliseconds:.{decimals}f}"


def _legend(result: Comparison) -> Iterator[str]:
    """Yields what the columns are of."""
    timed = [one.latency for one in result.candidates if one.latency is not None]
    if timed:
        where = "this machine" if result.device == LOCAL else result.device
        threads = timed[0].device.get("threads", "")
        with_threads = f", {threads} threads" if str(threads).isdigit() else ""
        yield f"ms: median of a round and its 95 % interval, batch {timed[0].batch}{with_threads}, in turn on {where}"
    if result.label_source:
        yield f"top-1: {result.label_source}"
    yield f"SQNR: {result.image_source}"


def _remarks(one: Candidate) -> Iterator[str]:
    """Yields what a row has no room for."""
    yield from (f"note: {one.name}: {note}" for note in one.notes)
    if one.reason:
        yield f"{one.name}: {_SHOWN[one.outcome]}: {one.reason}"
    if one.loss is not None and one.loss.lost + one.loss.gained > _WITHOUT_LINE:
        yield (
            f"{one.name}: {one.loss.lost} images lost, {one.loss.gained} gained "
            f"(exact McNemar p = {one.loss.p_value:.2g})"
        )


def _not_timed(result: Comparison) -> Iterator[str]:
    """Yields why there are no times, once for all that have the same reason."""
    for reason in dict.fromkeys(one.not_timed for one in result.candidates if one.not_timed):
        names = ", ".join(one.name for one in result.candidates if one.not_timed == reason)
        yield f"not timed: {names}: {reason}"


def _end(result: Comparison) -> Iterator[str]:
    """Yields what was kept, how long all took, and what to type next."""
    done = f"{len(result.candidates)} compared in {result.seconds:.0f} s"
    if not result.kept:
        yield f"{done}; nothing was kept"
        if result.command:
            yield next_command(result.command)
        return
    folder = result.kept[result.recommended]
    if len(result.kept) > 1:
        yield f"kept: {', '.join(result.kept.values())}"
    yield f"{done}; {folder if len(result.kept) == 1 else Path(folder).parent}: {filesize.decimal(result.size)}"
    if result.command:
        yield f"made by: {result.command}"
    yield next_command(f"vitedge validate {shlex.quote(folder)}")
