# SPDX-License-Identifier: Apache-2.0
"""Renders the latency of every subject, with its spread and tail."""

from __future__ import annotations

import shlex
from pathlib import Path

from rich import filesize

from vitedge.files.bundle import size_of
from vitedge.records import BenchReport, LatencyReport
from vitedge.render.screen import document, lines, next_command, show, table


def render(result: BenchReport, *, bundle: str | None = None, as_json: bool) -> None:
    """Prints the latency of every subject, and its ratio to the first; ``bundle`` is the one that keeps the report."""
    if as_json:
        return document(result)
    drawn = table("subject", "runtime", "median", "p90", "p99", "CoV", "load", "memory", right=range(2, 8))
    for report in result.reports:
        drawn.add_row(*_latency_row(report))
    show(drawn)
    lines(
        "times in milliseconds; memory is the peak of a process of its own",
        *(f"left out: {name}: {reason}" for name, reason in result.left_out.items()),
        *(
            f"{ratio.subject} takes {ratio.ratio:.2f} x the time of {ratio.baseline} "
            f"(95 % interval {ratio.low:.2f} to {ratio.high:.2f}): {ratio.verdict}"
            for ratio in result.ratios
        ),
        *(
            f"note: {report.subject} did not run steadily (drift {report.quantiles.drift:+.1%}); "
            "run it again on an idle machine"
            for report in result.reports
            if not report.stable and not result.inconclusive
        ),
        *([f"note: {result.inconclusive}"] if result.inconclusive else []),
    )
    if bundle is not None:
        lines(
            f"{bundle}: {filesize.decimal(size_of(Path(bundle)))}; the measurements are sealed into its manifest",
            next_command(f"vitedge validate {shlex.quote(bundle)}"),
        )
    return None


def _latency_row(report: LatencyReport) -> tuple[str, ...]:
    times = report.quantiles
    tail = "-" if times.p99 is None else f"{times.p99:.2f}"
    return (
        report.subject,
        report.runtime,
        f"{times.median:.2f}",
        f"{times.p90:.2f}",
        tail,
        f"{times.cov:.1%}",
        f"{report.load_ms:.0f}",
        f"{report.peak_memory_mb:.0f} MB",
    )
