# SPDX-License-Identifier: Apache-2.0
"""Renders the reports of `validate`."""

from __future__ import annotations

from vitedge.export.tensorrt.records import EngineRecord
from vitedge.export.tensorrt.summary import summary
from vitedge.files.plain import from_dict
from vitedge.records import Finding, Validation
from vitedge.render.engine import kernel_table
from vitedge.render.parity import finding_lines, layer_table, overflow_table, report_table
from vitedge.render.prune import step_lines
from vitedge.render.screen import document, lines, show


def render(result: Validation, *, kernels: bool = False, as_json: bool) -> None:
    """Prints parity, structure, ranges, engines and findings, and whether the subject is valid."""
    if as_json:
        return document(result)
    report_table(result.parity, result.structure)
    for report in result.parity:
        if report.layers:
            show(layer_table(report), f"{report.artifact} in {report.runtime}, layer by layer:")
    for overflow in result.overflow:
        overflow_table(overflow)
    engines = {path: from_dict(EngineRecord, engine) for path, engine in result.engines.items()}
    for path, engine in engines.items():
        if kernels and engine.layers is not None:
            show(kernel_table(engine.layers), f"{path}, kernel by kernel:")
    lines(
        *step_lines(result.steps),
        *(f"{path}: {engine.builder} {engine.version}: {summary(engine)}" for path, engine in engines.items()),
        *(line for finding in result.findings for line in finding_lines(finding)),
        *(f"note: {note}" for note in result.notes),
        f"{result.subject}: {_hashes(result)}{'valid' if result.passed else 'NOT valid'}",
    )
    return None


def render_damage(subject: str, reason: str) -> None:
    """Prints the report of a bundle that could not be checked to the end, as JSON; people read it on stderr."""
    remedy = "Copy the bundle again from where it came, or export it anew."
    damage = Finding(subject, "damaged", subject, reason, remedy)
    document(Validation(subject, (), (), 0, passed=False, findings=(damage,)))


def _hashes(result: Validation) -> str:
    return f"{result.files} files as the manifest describes them, " if result.files else ""
