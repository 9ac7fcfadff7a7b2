# SPDX-License-Identifier: Apache-2.0
"""One function a command: its record to tables for people, or to one JSON document.

Only this module and its siblings ``render_…`` print; what they draw with is in `vitedge.render_screen`.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from rich import filesize
from rich.table import Table

from vitedge.demo.records import DemoResult, DemoRow
from vitedge.devices.profiles import Profile
from vitedge.records import (
    Artifact,
    BenchReport,
    ExportResult,
    Inspection,
    LatencyReport,
    ModelSpec,
    Origin,
    Validation,
)
from vitedge.render_parity import finding_lines, layer_table, stress_table, verdicts
from vitedge.render_screen import document, lines, next_command, short_path, show, table

_NAMED = 2
"""Labels that are shown before their number."""


def inspection(result: Inspection, *, as_json: bool) -> None:
    """What is in a checkpoint."""
    if as_json:
        return document(result)
    spec = result.spec
    drawn = table("", "", "from")
    drawn.add_row("file", short_path(result.source), f"{result.container}, {filesize.decimal(result.size)}")
    drawn.add_row("weights", _weight_sets(result), f"{spec.naming} names")
    for name, value in _facts(spec):
        drawn.add_row(name.rpartition(".")[2].replace("_", " "), value, _origin(spec, name))
    show(drawn)
    cost = result.cost
    lines(
        f"{cost.parameters:,} parameters, {cost.gmacs:.2f} GMACs, {cost.activations_mb:.1f} MB of activations",
        *(f"left out: {name} ({reason})" for name, reason in _grouped(result.dropped)),
        *(f"note: {note}" for note in spec.notes),
        next_command(f"vitedge export {shlex.quote(result.source)} -o BUNDLE --format onnx --format coreml"),
    )
    return None


def export_result(result: ExportResult, *, as_json: bool) -> None:
    """What was written, and how well it computes."""
    if as_json:
        return document(result)
    manifest = result.manifest
    show(_artifact_table(manifest.artifacts))
    verdicts(manifest.parity, manifest.structure)
    lines(
        *(f"note: {artifact.path}: {note}" for artifact in manifest.artifacts for note in artifact.notes),
        *(f"note: {note}" for note in manifest.spec.notes),
        *([] if manifest.speed is None else [f"speed: {manifest.speed.text}"]),
        *result.pending,
        f"{result.bundle}: {filesize.decimal(result.size)}, verified, in {sum(result.seconds.values()):.1f} s",
        next_command(f"vitedge bench {shlex.quote(result.bundle)}"),
    )
    return None


def validation(result: Validation, *, as_json: bool) -> None:
    """The verdict of `validate`."""
    if as_json:
        return document(result)
    verdicts(result.parity, result.structure)
    for report in result.parity:
        if report.layers:
            show(layer_table(report))
    for stress in result.stress:
        stress_table(stress)
    lines(
        *(line for finding in result.findings for line in finding_lines(finding)),
        f"{result.subject}: {_hashes(result)}{'valid' if result.passed else 'NOT valid'}",
    )
    return None


def kit(bundle: str, folder: str, *, as_json: bool) -> None:
    """Where a kit was written, and what to do with it."""
    if as_json:
        return document({"bundle": bundle, "kit": folder})
    lines(
        f"{folder}: copy it to a Mac and type there: python verify.py",
        next_command(f"vitedge validate {shlex.quote(bundle)} --import result.npz"),
    )
    return None


def bench(result: BenchReport, *, as_json: bool) -> None:
    """Latency of every subject, and each against the first."""
    if as_json:
        return document(result)
    drawn = table("subject", "runtime", "median", "p90", "p99", "CoV", "load", "memory", right=range(2, 8))
    for report in result.reports:
        drawn.add_row(*_latency_row(report))
    show(drawn)
    lines(
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
        return document(result)
    drawn = table("model", "runs as", "size", "relative", "SQNR dB", "top-1", "median ms", right=range(2, 7))
    shown = ""
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
        *_not_timed(result),
        f"{result.folder}: {len(result.rows)} artifacts, every one verified, in {result.seconds:.0f} s",
        next_command(f"vitedge validate {shlex.quote(result.folder)}/{result.rows[0].model.lower()}"),
    )
    return None


def _demo_name(row: DemoRow) -> str:
    return row.format if row.precision == "fp32" else f"{row.format} {row.precision}"


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


def profiles(known: Mapping[str, Profile], *, as_json: bool) -> None:
    """The table of devices, with the source of each entry."""
    if as_json:
        return document(known)
    shown = table("profile", "formats", "opset", "Core ML", "precisions", "int8")
    for name, profile in known.items():
        opset = "-" if profile.opset is None else str(profile.opset)
        lists = (" ".join(profile.formats), opset, profile.coreml_target or "-", " ".join(profile.precisions))
        shown.add_row(name, *lists, profile.scheme)
    show(shown)
    for name, profile in known.items():
        lines(f"{name}: {profile.title}", *(f"  {entry}: {source}" for entry, source in profile.sources.items()))
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


def _hashes(result: Validation) -> str:
    return f"{result.files} files as the manifest describes them, " if result.files else ""


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
