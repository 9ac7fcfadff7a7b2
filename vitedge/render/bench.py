# SPDX-License-Identifier: Apache-2.0
"""Renders the latency of every subject, with its spread and tail."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import filesize

from vitedge.files.bundle import size_of
from vitedge.latency.conclusion import DRIFT_LIMIT
from vitedge.latency.statistics import COV_LIMIT, VISIBLE_STEP
from vitedge.records import BenchReport, LatencyRatio, LatencyReport
from vitedge.registry import LOCAL
from vitedge.render.parity import report_table
from vitedge.render.screen import document, lines, next_command, show, table
from vitedge.sentences import some


def render(result: BenchReport, *, bundle: str | None = None, as_json: bool) -> None:
    """Prints the latency of every subject, and its ratio to the first; ``bundle`` is the one that keeps the report."""
    if as_json:
        return document(result)
    if result.parity:
        report_table(result.parity, ())
    for where in dict.fromkeys(report.where for report in result.reports):
        there = [report for report in result.reports if report.where == where]
        _tables(there, where if where != LOCAL or len(there) < len(result.reports) else "")
    lines(
        "times in milliseconds; memory is the peak of a process of its own",
        *(f"left out: {name}: {reason}" for name, reason in result.left_out.items()),
        *(line for ratio in result.ratios for line in _compared(ratio, several=len(_places(result)) > 1)),
        *(
            f"note: {report.subject} did not run steadily ({_unsteady(report)}); run it again on an idle machine"
            for report in result.reports
            if not report.stable and not result.inconclusive
        ),
        *(f"note: {note}" for report in result.reports for note in _shape(report)),
        *([f"note: {spread}"] if (spread := _spread(result.reports)) else []),
        *([f"note: {result.inconclusive}"] if result.inconclusive else []),
        *(f"note: {note}" for note in result.notes),
        *(f"{where} failed: {reason}" for where, reason in result.failed.items()),
    )
    if bundle is not None:
        lines(
            f"{bundle}: {filesize.decimal(size_of(Path(bundle)))}; the measurements are sealed into its manifest",
            next_command(f"vitedge validate {shlex.quote(bundle)}"),
        )
    return None


def _tables(reports: Sequence[LatencyReport], where: str) -> None:
    """Prints the latency of every subject on one device, under what the device is and how it was."""
    drawn = table("subject", "runtime", "median", "p90", "p99", "CoV", "load", "memory", right=range(2, 8))
    for report in reports:
        drawn.add_row(*_latency_row(report))
    show(drawn, f"{where}: {_machine(reports[0].device)}" if where else "")
    more = table("subject", "n", "min", "mean", "p95", "std", "drift", "first", "file", right=range(1, 9))
    for report in reports:
        more.add_row(*_further_row(report))
    show(more)
    lines(*(line for report in reports for line in _state(report)))


def _machine(device: Mapping[str, Any]) -> str:
    """Returns what a device is and runs, in one line."""
    power, governor = device.get("before", {}).get("power_mode", ""), device.get("before", {}).get("governor", "")
    found = [
        str(device.get("model") or device.get("processor") or device.get("architecture", "")),
        f"JetPack {device['jetpack']}" if device.get("jetpack") else str(device.get("os", "")),
        f"{device.get('library', '')} {device.get('version', '')}".strip(),
        f"{device['threads']} threads" if str(device.get("threads", "")).isdigit() else "",
        f"power mode {power}" if power else "",
        f"governor {governor}" if governor else "",
    ]
    return ", ".join(part for part in found if part)


def _state(report: LatencyReport) -> Iterator[str]:
    """Yields what was seen of the device while a subject ran."""
    watch = report.watch
    if watch is None:
        return
    found = [
        *(f"{name} {spread.median:.0f} MHz" for name, spread in watch.clocks_mhz.items() if name in ("cpu", "gpu")),
        *([f"up to {max(one.maximum for one in watch.temperatures.values()):.0f} °C"] if watch.temperatures else []),
        *([f"{sum(watch.power_w[rail] for rail in watch.rails):.2f} W"] if watch.rails else []),
    ]
    if watch.energy_per_inference_j is not None:
        found.append(f"{watch.energy_per_inference_j * 1e3:.3g} mJ an inference above idle")
    if found:
        yield f"{report.subject}: {', '.join(found)}"
    yield from (f"note: {report.subject}: throttled: {reason}" for reason in watch.throttled)
    yield from (f"note: {report.subject}: trtexec: {warning}" for warning in report.device.get("warnings", ()))


def _latency_row(report: LatencyReport) -> tuple[str, ...]:
    times = report.quantiles
    return (
        report.subject,
        report.runtime,
        _number(times.median),
        _number(times.p90),
        _number(times.p99),
        f"{times.cov:.1%}",
        f"{report.load_ms:.0f}",
        f"{report.peak_memory_mb:.0f} MB",
    )


def _places(result: BenchReport) -> frozenset[str]:
    return frozenset(report.where for report in result.reports)


def _compared(ratio: LatencyRatio, *, several: bool) -> Iterator[str]:
    """Yields the comparison, and below it the reason why nothing is concluded from it."""
    where = f"{ratio.where}: " if several else ""
    yield (
        f"{where}{ratio.subject} takes {ratio.ratio:.2f} x the time of {ratio.baseline} "
        f"(95 % interval {ratio.low:.2f} to {ratio.high:.2f}): {ratio.verdict}"
    )
    if ratio.reason:
        yield f"  for {ratio.reason}"


def _further_row(report: LatencyReport) -> tuple[str, ...]:
    times = report.quantiles
    return (
        report.subject,
        str(report.samples),
        *(_number(value) for value in (times.minimum, times.mean, times.p95, times.std)),
        f"{times.drift:+.1%}",
        _number(report.first_ms),
        filesize.decimal(report.file_size) if report.file_size else "-",
    )


def _number(value: float | None) -> str:
    """Returns milliseconds, three digits of less than one, or a dash where there are too few samples."""
    if value is None:
        return "-"
    return f"{value:.2f}" if value >= 1 or value == 0 else f"{value:.3g}"


def _unsteady(report: LatencyReport) -> str:
    drift = report.quantiles.drift
    return f"drift {drift:+.1%}" if abs(drift) > DRIFT_LIMIT else "warming up"


def _short(milliseconds: float) -> str:
    """Returns milliseconds with five digits at most."""
    return f"{milliseconds:.5g}"


def _shape(report: LatencyReport) -> Iterator[str]:
    """Yields a sentence about each thing that a median and a tail do not show."""
    name, times = report.subject, report.quantiles
    if times.modes:
        shares = ", ".join(f"{mode.share:.0%} near {_short(mode.center_ms)} ms" for mode in times.modes)
        yield f"{name} has two modes: {shares}"
    if times.outliers and times.maximum is not None:
        few = "1 outlier" if times.outliers == 1 else f"{times.outliers} outliers"
        yield f"{name} has {few}, up to {_short(times.maximum)} ms; no figure leaves them out"
    if times.resolution_ms > VISIBLE_STEP * times.median:
        step = f"{_short(times.resolution_ms)} ms, {times.resolution_ms / times.median:.1%} of the median"
        yield f"{name}: the clock's step is {step}"


def _spread(reports: Sequence[LatencyReport]) -> str:
    """Returns a sentence about the subjects whose times vary much, or nothing."""
    wide = [report.subject for report in reports if report.quantiles.cov > COV_LIMIT]
    return f"CoV above {COV_LIMIT:.1%}, the machine was not quiet: {some(wide)}" if wide else ""
