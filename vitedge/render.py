# SPDX-License-Identifier: Apache-2.0
"""The one place that prints: records to tables for people, or to one JSON document.

Results go to stdout, progress and errors to stderr. Tables fit 80 columns.
"""

from __future__ import annotations

import json
import math
import shlex
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from vitedge.profiles import Profile
from vitedge.records import (
    Artifact,
    BenchReport,
    DemoResult,
    DemoRow,
    ExportResult,
    Finding,
    Inspection,
    LatencyReport,
    ModelSpec,
    Origin,
    OutputParity,
    ParityReport,
    StressReport,
    StructureReport,
    Validation,
)
from vitedge.serialization import to_dict

_NAMED = 2
"""Labels that are shown before their number."""
_SHOWN = 10
"""Values that are shown of a program's ranges."""
# Names are the user's own: a bracket or a colon in one is no markup.
_OUT = Console(highlight=False, soft_wrap=False, markup=False, emoji=False)
_ERR = Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)


def progress(text: str) -> None:
    """One line about what is being done."""
    _ERR.print(text, style="dim")


def error(text: str) -> None:
    """One sentence about what went wrong."""
    _ERR.print(f"vitedge: {text}")


def inspection(result: Inspection, *, as_json: bool) -> None:
    """What is in a checkpoint."""
    if as_json:
        return _json(result)
    spec = result.spec
    table = _table("", "", "from")
    table.add_row("file", _path(result.source), f"{result.container}, {_bytes(result.size)}")
    table.add_row("weights", _weight_sets(result), f"{spec.naming} names")
    for name, value in _facts(spec):
        table.add_row(name.rpartition(".")[2].replace("_", " "), value, _origin(spec, name))
    _OUT.print(table)
    cost = result.cost
    _lines(
        f"{cost.parameters:,} parameters, {cost.gmacs:.2f} GMACs, {cost.activations_mb:.1f} MB of activations",
        *(f"left out: {name} ({reason})" for name, reason in _grouped(result.dropped)),
        *(f"note: {note}" for note in spec.notes),
        _next(f"vitedge export {shlex.quote(result.source)} -o BUNDLE --format onnx --format coreml"),
    )
    return None


def export_result(result: ExportResult, *, as_json: bool) -> None:
    """What was written, and how well it computes."""
    if as_json:
        return _json(result)
    manifest = result.manifest
    _OUT.print(_artifact_table(manifest.artifacts))
    _verdicts(manifest.parity, manifest.structure)
    _lines(
        *(f"note: {artifact.path}: {note}" for artifact in manifest.artifacts for note in artifact.notes),
        *(f"note: {note}" for note in manifest.spec.notes),
        *result.pending,
        f"{result.bundle}: {_bytes(result.size)}, verified, in {sum(result.seconds.values()):.1f} s",
        _next(f"vitedge bench {shlex.quote(result.bundle)}"),
    )
    return None


def validation(result: Validation, *, as_json: bool) -> None:
    """The verdict of `validate`."""
    if as_json:
        return _json(result)
    _verdicts(result.parity, result.structure)
    for report in result.parity:
        if report.layers:
            _OUT.print(_layer_table(report))
    for stress in result.stress:
        _stress(stress)
    _lines(
        *(line for finding in result.findings for line in _finding(finding)),
        f"{result.subject}: {_hashes(result)}{'valid' if result.passed else 'NOT valid'}",
    )
    return None


def kit(bundle: str, folder: str, *, as_json: bool) -> None:
    """Where a kit was written, and what to do with it."""
    if as_json:
        return _json({"bundle": bundle, "kit": folder})
    _lines(
        f"{folder}: copy it to a Mac and type there: python verify.py",
        _next(f"vitedge validate {shlex.quote(bundle)} --import result.npz"),
    )
    return None


def bench(result: BenchReport, *, as_json: bool) -> None:
    """Latency of every subject, and each against the first."""
    if as_json:
        return _json(result)
    table = _table("subject", "runtime", "median", "p90", "p99", "CoV", "load", "memory", right=range(2, 8))
    for report in result.reports:
        table.add_row(*_latency_row(report))
    _OUT.print(table)
    _lines(
        "times in milliseconds; memory is the peak of a process of its own",
        *(
            f"{ratio.subject} takes {ratio.ratio:.2f} x the time of {ratio.baseline} "
            f"(95 % interval {ratio.low:.2f} to {ratio.high:.2f}): {ratio.verdict}"
            for ratio in result.ratios
        ),
        *(
            f"note: {report.subject} did not run steadily (drift {report.quantiles.drift:+.1%}); "
            "run it again on an idle machine"
            for report in result.reports
            if not report.stable
        ),
    )
    return None


def demo(result: DemoResult, *, as_json: bool) -> None:
    """What the demo produced: size, parity, accuracy and latency of every artifact."""
    if as_json:
        return _json(result)
    table = _table("model", "runs as", "size", "relative", "SQNR dB", "top-1", "median ms", right=range(2, 7))
    shown = ""
    for row in result.rows:
        if row.model != shown:
            reference = ("-", "reference", "-", f"{row.reference_top1:.1%}", f"{row.reference_ms:.2f}")
            table.add_row(row.model, "PyTorch", *reference)
            shown = row.model
        table.add_row("", row.format, *_demo_cells(row))
    _OUT.print(table)
    _lines(
        f"top-1 on {result.images} test images; median latency at batch 1, measured in turn",
        *_not_timed(result),
        f"{result.folder}: {len(result.rows)} artifacts, every one verified, in {result.seconds:.0f} s",
        _next(f"vitedge validate {shlex.quote(result.folder)}/{result.rows[0].model.lower()}"),
    )
    return None


def _not_timed(result: DemoResult) -> tuple[str, ...]:
    formats = dict.fromkeys(row.format for row in result.rows if row.median_ms is None)
    return tuple(f"{name}: computed op by op here; its own runtime is not on this machine" for name in formats)


def _demo_cells(row: DemoRow) -> tuple[str, ...]:
    return (
        _bytes(row.size),
        f"{row.parity.relative_error:.1e}",
        f"{row.parity.centred_sqnr_db:.0f}",
        f"{row.top1:.1%}",
        "-" if row.median_ms is None else f"{row.median_ms:.2f}",
    )


def profiles(table: Mapping[str, Profile], *, as_json: bool) -> None:
    """The table of devices, with the source of each entry."""
    if as_json:
        return _json(table)
    shown = _table("profile", "formats", "opset", "Core ML", "precisions", "int8")
    for name, profile in table.items():
        opset = "-" if profile.opset is None else str(profile.opset)
        lists = (" ".join(profile.formats), opset, profile.coreml_target or "-", " ".join(profile.precisions))
        shown.add_row(name, *lists, profile.scheme)
    _OUT.print(shown)
    for name, profile in table.items():
        _lines(f"{name}: {profile.title}", *(f"  {entry}: {source}" for entry, source in profile.sources.items()))
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


def _verdicts(parity: Iterable[ParityReport], structure: Iterable[StructureReport]) -> None:
    table = _table("artifact", "checked in", "output", "relative", "SQNR dB", "top-1", "verdict", right=range(3, 6))
    for report in parity:
        verdict = "passed" if report.passed else "FAILED"
        for row in report.outputs:
            agreement = "-" if row.agreement is None else f"{row.agreement:.1%}"
            numbers = (f"{row.relative_error:.1e}", f"{row.centred_sqnr_db:.1f}", agreement)
            table.add_row(report.artifact, report.runtime, row.output, *numbers, verdict)
    judged = {report.artifact for report in parity}
    for check in structure:
        if check.passed and check.artifact in judged:
            continue  # its parity says more
        table.add_row(check.artifact, "structure", "-", "-", "-", "-", "passed" if check.passed else "FAILED")
    _OUT.print(table)
    reports: list[ParityReport | StructureReport] = [*parity, *structure]
    _lines(
        *(f"{report.artifact}: {report.reason}" for report in reports if report.reason),
        *dict.fromkeys(f"{report.runtime}: {report.note}" for report in parity if report.note),
        *dict.fromkeys(f"{report.runtime}: ran on {_machine(report.machine)}" for report in parity if report.machine),
    )


def _stress(report: StressReport) -> None:
    table = _table("operation", "module", "magnitude", "", right=(2,))
    for entry in report.ranges[:_SHOWN]:
        magnitude = "-" if entry.magnitude is None else f"{entry.magnitude:.4g}"
        table.add_row(entry.operation, entry.module or "(root)", magnitude, entry.fault)
    _OUT.print(table)
    more = len(report.ranges) - _SHOWN
    _lines(
        f"{report.artifact}: the largest of {len(report.ranges)} values over {report.images} images; "
        f"float16 holds {report.limit:g}" + (f"; {more} smaller ones are in --json" if more > 0 else ""),
        *([f"keep in float32: {', '.join(name or '(root)' for name in report.keep_fp32)}"] if report.keep_fp32 else []),
    )


def _finding(finding: Finding) -> tuple[str, str]:
    return (
        f"{finding.artifact}: {finding.rule}: {finding.where}: {finding.reason}",
        f"  remedy: {finding.remedy}",
    )


def _hashes(result: Validation) -> str:
    return f"{result.files} files as the manifest describes them, " if result.files else ""


def _machine(machine: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in machine.items())


def _layer_table(report: ParityReport) -> Table:
    """One row a module: its worst value, where it has several."""
    table = _table("layer", "relative", "SQNR dB", "", right=(1, 2))
    worst: dict[str, OutputParity] = {}
    for row in report.layers:
        module = row.output.partition(" ")[0]
        if module not in worst or _layer_sqnr(row) < _layer_sqnr(worst[module]):
            worst[module] = row
    first = report.first_departure.partition(" ")[0]
    for module, row in worst.items():
        mark = "departs first" if module == first else ""
        table.add_row(module, f"{row.relative_error:.1e}", f"{_layer_sqnr(row):.1f}", mark)
    return table


def _layer_sqnr(row: OutputParity) -> float:
    """A layer of a Core ML package is judged by its plain SQNR, and has no other."""
    return row.sqnr_db if math.isnan(row.centred_sqnr_db) else row.centred_sqnr_db


def _artifact_table(artifacts: Iterable[Artifact]) -> Table:
    table = _table("artifact", "target", "precision", "input", "size", right=(4,))
    for artifact in artifacts:
        image = artifact.inputs[0]
        shape = "x".join(str(edge) for edge in image.shape)
        table.add_row(
            artifact.path, artifact.target, artifact.precision, f"{shape} {image.dtype}", _bytes(artifact.size)
        )
    return table


def _facts(spec: ModelSpec) -> Iterable[tuple[str, str]]:
    """Field names of the spec, in reading order, with their values as text."""
    for name in ("family", "variant", "image_size", "in_channels", "patch", "widths", "depths", "heads", "mlp_ratios"):
        yield name, _text(getattr(spec, name))
    yield "classes", str(spec.classes) if spec.classes else "none: exports as a feature extractor"
    yield "tokens", ", ".join(spec.tokens) or "none"
    yield "activation", spec.activation
    yield "norm_eps", f"{spec.norm_eps:g}"
    for name in ("mean", "std", "interpolation", "crop", "channel_order"):
        yield f"preprocessing.{name}", _text(getattr(spec.preprocessing, name))
    for name in (name for name, value in spec.options.items() if value):
        value = spec.options[name]
        yield f"options.{name}", _text(value)
    if spec.labels:
        more = f", … ({len(spec.labels)})" if len(spec.labels) > _NAMED else ""
        yield "labels", ", ".join(spec.labels[:_NAMED]) + more


def _origin(spec: ModelSpec, name: str) -> str:
    origin = spec.origins.get(name)
    if origin is None:
        return ""
    return f"{origin.value}: check it" if origin is Origin.ASSUMED else origin.value


def _text(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return " ".join(_text(entry) for entry in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _weight_sets(result: Inspection) -> str:
    others = [name for name in result.weight_sets if name != result.weight_set]
    return f"{result.weight_set} (also here: {', '.join(others)})" if others else result.weight_set


def _grouped(dropped: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    """Dropped weights by reason, with their number where there are several."""
    names: dict[str, list[str]] = {}
    for name, reason in dropped.items():
        names.setdefault(reason, []).append(name)
    for reason, group in names.items():
        yield (group[0] if len(group) == 1 else f"{group[0]} and {len(group) - 1} more", reason)


def _table(*headers: str, right: Iterable[int] = ()) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_header=any(headers), pad_edge=False, padding=(0, 1, 0, 0))
    rights = set(right)
    for index, header in enumerate(headers):
        table.add_column(header, justify="right" if index in rights else "left", overflow="fold", no_wrap=index > 1)
    return table


def _path(text: str) -> str:
    return text if len(text) <= 40 else f"…{text[-39:]}"


def _bytes(size: int) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size} bytes"


def _next(command: str) -> str:
    return f"next: {command}"


def _lines(*lines: str) -> None:
    for line in lines:
        _OUT.print(line, soft_wrap=True)


def _json(record: Any) -> None:
    json.dump(to_dict(record), sys.stdout, indent=1, ensure_ascii=False, allow_nan=False)
    sys.stdout.write("\n")
