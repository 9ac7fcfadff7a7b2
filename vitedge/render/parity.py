# SPDX-License-Identifier: Apache-2.0
"""Renders tables that several commands show: parity, structure, layers, ranges and findings."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from rich.table import Table

from vitedge.records import Finding, OutputParity, OverflowReport, ParityReport, StructureReport
from vitedge.render.screen import lines, show, table

_SHOWN = 10
"""Rows of the table of a program's largest values."""


def report_table(parity: Iterable[ParityReport], structure: Iterable[StructureReport]) -> None:
    """Prints the metrics of every artifact, and the reasons of those that failed."""
    drawn = table("artifact", "checked in", "output", "relative", "SQNR dB", "top-1", "check", right=range(3, 6))
    for report in parity:
        outcome = "passed" if report.passed else "FAILED"
        for row in report.outputs:
            agreement = "-" if row.agreement is None else f"{row.agreement:.1%}"
            numbers = (f"{row.relative_error:.1e}", f"{row.centred_sqnr_db:.1f}", agreement)
            drawn.add_row(report.artifact, _place(report), row.output, *numbers, outcome)
    compared = {report.artifact for report in parity}
    for check in structure:
        if check.passed and check.artifact in compared:
            continue  # its parity is in the table already
        drawn.add_row(check.artifact, "structure", "-", "-", "-", "-", "passed" if check.passed else "FAILED")
    show(drawn)
    reports: list[ParityReport | StructureReport] = [*parity, *structure]
    lines(
        *(f"{report.artifact}: {report.reason}" for report in reports if report.reason),
        *(f"{check.artifact}: {', '.join(check.checks)}" for check in structure if check.artifact not in compared),
        *(f"{check.artifact}: {remark}" for check in structure for remark in check.remarks),
        *(f"{report.artifact}: {report.runtime}: {report.note}" for report in parity if report.note),
        *dict.fromkeys(f"{report.runtime}: ran on {_machine(report.machine)}" for report in parity if report.machine),
    )


def overflow_table(report: OverflowReport) -> None:
    """Prints the largest values of a package."""
    drawn = table("operation", "module", "magnitude", "remark", right=(2,))
    for entry in report.ranges[:_SHOWN]:
        magnitude = "-" if entry.magnitude is None else f"{entry.magnitude:.4g}"
        drawn.add_row(entry.operation, entry.module or "(root)", magnitude, entry.fault)
    show(drawn)
    more = len(report.ranges) - _SHOWN
    lines(
        f"{report.artifact}: the largest of {len(report.ranges)} values over {report.images} images; "
        f"float16 holds {report.limit:g}" + (f"; {more} smaller ones are in --json" if more > 0 else ""),
        *([f"keep in float32: {', '.join(name or '(root)' for name in report.keep_fp32)}"] if report.keep_fp32 else []),
    )


def finding_lines(finding: Finding) -> tuple[str, str]:
    """Returns two lines: what will cost speed or precision on a device, and the remedy."""
    return (
        f"{finding.artifact}: {finding.rule}: {finding.where}: {finding.reason}",
        f"  remedy: {finding.remedy}",
    )


def layer_table(report: ParityReport) -> Table:
    """Returns a table of one row a module: its worst value, where it has several."""
    drawn = table("layer", "relative", "SQNR dB", "remark", right=(1, 2))
    worst: dict[str, OutputParity] = {}
    for row in report.layers:
        module = row.output.partition(" ")[0]
        if module not in worst or _layer_sqnr(row) < _layer_sqnr(worst[module]):
            worst[module] = row
    first = report.first_departure.partition(" ")[0]
    for module, row in worst.items():
        mark = "departs first" if module == first else ""
        drawn.add_row(module, f"{row.relative_error:.1e}", f"{_layer_sqnr(row):.1f}", mark)
    return drawn


def _layer_sqnr(row: OutputParity) -> float:
    """Returns the centred SQNR in dB; of a layer of a Core ML package the plain one, as it has no other."""
    return row.sqnr_db if math.isnan(row.centred_sqnr_db) else row.centred_sqnr_db


def _place(report: ParityReport) -> str:
    """Returns the runtime that an artifact ran in, with the device where that was another one."""
    device = report.machine.get("device", "")
    return f"{report.runtime} on {device}" if device else report.runtime


def _machine(machine: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in machine.items())
