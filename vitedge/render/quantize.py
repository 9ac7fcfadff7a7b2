# SPDX-License-Identifier: Apache-2.0
"""Renders the file that `quantize` wrote: schemes, simulated accuracy, layers and attentions."""

from __future__ import annotations

import math
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence

from rich import filesize
from rich.table import Table

from vitedge.export.formats import DEFAULT
from vitedge.parity.metrics import default_tolerance
from vitedge.quantization.records import FrontierPoint, QuantizationRecord, QuantizationResult
from vitedge.render.following import free
from vitedge.render.screen import document, lines, next_command, show, table

_NUMBERED = re.compile(r"(.*\.\d+)\.(.+)")
_SPREAD_DB = 1.0
"""Decibels by which other images may lie below the simulation."""
_SHOWN = 3
"""Layers that a row of the frontier names of those kept in float."""


def render(done: QuantizationResult, *, profiles: Sequence[str] = (), layers: bool = False, as_json: bool) -> None:
    """Prints the summary, and with ``layers`` all layers and attentions; ``profiles`` go into the next command."""
    if as_json:
        return document(done)
    record = done.record
    if layers:
        show(_layer_table(record), "the layers, with the noise of each in the program and alone:")
        if record.attentions:
            show(_attention_table(record), "the attentions in float, and as they are rounded:")
    if record.frontier:
        show(_frontier_table(record), "what fewer quantized layers would give:")
    wanted = [word for name in profiles for word in ("--for", name)] or ["--format", DEFAULT]
    short = _below(record)
    lines(
        f"{done.variant}: {_schemes(record)}",
        *(f"skipped: {name}: {reason}" for name, reason in record.skipped.items()),
        *(f"note: {note}" for note in record.notes),
        *_simulation(record),
        *([f"budget exceeded: {done.failed}; this is the best that was found"] if done.failed else []),
        f"{done.path}: {filesize.decimal(done.size)}, in {sum(record.seconds.values()):.1f} s",
        next_command(shlex.join(["vitedge", "export", done.path, "-o", free("BUNDLE"), *wanted, *short])),
    )
    return None


def _below(record: QuantizationRecord) -> tuple[str, ...]:
    """Returns the option without which an export would exceed its tolerance, where the simulation is below it."""
    asked = default_tolerance(record.scheme, "").centred_sqnr_db
    if asked is None or record.sqnr_db is None or record.sqnr_db >= asked + _SPREAD_DB:
        return ()
    return ("--min-sqnr", f"{math.floor(record.sqnr_db - _SPREAD_DB):g}")


def _simulation(record: QuantizationRecord) -> Iterator[str]:
    if record.sqnr_db is None:
        yield "not compared with PyTorch: no images were named; vitedge export compares it"
    else:
        agreement = "" if record.agreement is None else f", {record.agreement:.1%} of the images keep their top-1"
        yield f"calibrated on {record.images} images: {record.image_source}"
        if record.left_out:
            yield f"left out by --effort {record.effort}: {'; '.join(record.left_out)}"
        yield f"simulation: {record.sqnr_db:.1f} dB centred SQNR{agreement}"


def _schemes(record: QuantizationRecord) -> str:
    counts = Counter(layer.scheme for layer in record.layers)
    named = ", ".join(f"{count} {scheme}" for scheme, count in counts.most_common())
    share = "" if record.share is None else f"; {record.share:.1%} of the weights are {_layer_scheme(record)}"
    return f"{len(record.layers)} layers: {named}{share}"


def _layer_scheme(record: QuantizationRecord) -> str:
    return "int8" if record.scheme == "mixed" else record.scheme


def _frontier_table(record: QuantizationRecord) -> Table:
    drawn = table("kept in float", "SQNR dB", "top-1", "kernels µs", right=range(1, 4))
    for first in record.frontier[:1]:
        if first.top1 is not None and first.drop_points is not None:
            drawn.add_row("everything", "-", f"{first.top1 + first.drop_points / 100:.2%}", "-")
    for point in record.frontier:
        shown = ", ".join(point.given_back[:_SHOWN]) or "nothing"
        more = len(point.given_back) - _SHOWN
        drawn.add_row(
            f"{shown} and {more} more" if more > 0 else shown,
            f"{point.sqnr_db:.1f}",
            _top1(point),
            "-" if point.microseconds is None else f"{point.microseconds:.0f}",
        )
    return drawn


def _top1(point: FrontierPoint) -> str:
    """Returns the share that is classified correctly, with the points below the float program."""
    if point.top1 is None:
        return "-"
    return f"{point.top1:.2%}" + ("" if point.drop_points is None else f" ({0 - point.drop_points:+.2f})")


def _layer_table(record: QuantizationRecord) -> Table:
    """Returns a table of a row a layer, below the name of its numbered module: whole names are as wide as a screen."""
    drawn = table("layer", "scheme", "range", "SQNR dB", "alone", "clamped", right=range(3, 6))
    found = {diagnosis.layer: diagnosis for diagnosis in record.diagnoses}
    above = ""
    for layer in record.layers:
        module, name = _split(layer.layer)
        if module not in ("", above):
            drawn.add_row(module)
        above = module
        seen = found.get(layer.layer)
        figures = ("-", "-", "-") if seen is None else _figures(seen.sqnr_db, seen.alone_db, seen.saturation)
        drawn.add_row(f"  {name}" if module else name, layer.scheme, layer.range_method or "-", *figures)
    return drawn


def _split(layer: str) -> tuple[str, str]:
    """Returns the innermost numbered module that a layer is in, or empty, and the layer's name within it."""
    numbered = _NUMBERED.fullmatch(layer)
    return ("", layer) if numbered is None else (numbered[1], numbered[2])


def _figures(sqnr_db: float, alone_db: float, saturation: float) -> tuple[str, str, str]:
    return f"{sqnr_db:.1f}", f"{alone_db:.1f}", f"{saturation:.2%}"


def _attention_table(record: QuantizationRecord) -> Table:
    drawn = table("attention", "entropy", "rounded", "distance", "rounded", "KL", right=range(1, 6))
    for seen in record.attentions:
        pairs = (seen.entropy_float, seen.entropy_quantized, seen.distance_float, seen.distance_quantized)
        drawn.add_row(seen.attention, *("-" if value is None else f"{value:.3f}" for value in pairs), f"{seen.kl:.1e}")
    return drawn
