# SPDX-License-Identifier: Apache-2.0
"""Compares the speed of a quantized ONNX file with float files of the same export, measured in turn."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from vitedge import registry
from vitedge.devices.session import connect
from vitedge.errors import BadRecipe
from vitedge.export.formats import DEFAULT, LOWERINGS, QuantizedForm
from vitedge.export.onnx.fusion import count_unpacked, unfused
from vitedge.latency.interleave import measure_in_turn
from vitedge.latency.model import MeasuredModel
from vitedge.latency.sampling import Rule
from vitedge.program.program import Program
from vitedge.quantization.file.header import SUFFIX
from vitedge.recipe import SCHEMES, Precision, ResolvedRecipe
from vitedge.records import LatencyRatio, SpeedComparison
from vitedge.registry import LOCAL

RULE = Rule(warmup_s=0.2, warmup_limit_s=0.6, samples=60, seconds=1.5, rounds=10, patience_s=120.0)
"""A short measurement: ten turns, which show differences of a few percent and not of less."""
BASELINES = (Precision.FP32, Precision.FP16)
_NAMED = 3
_OPPOSITE = {"faster": "slower", "slower": "faster"}


def refuse_incomparable(source: str, recipe: ResolvedRecipe, forms: Sequence[QuantizedForm]) -> None:
    """Refuses an export whose speed cannot be compared, before any work is done.

    Args:
        source: the checkpoint or quantized file that is exported.
        recipe: of the export.
        forms: of the quantized programs.

    Raises:
        BadRecipe: there is no float or no quantized program, or no form is made for processors.
    """
    if source.endswith(SUFFIX):
        raise BadRecipe(f"{source} has no float program that --compare-speed could time: export the checkpoint.")
    if recipe.precision not in SCHEMES:
        raise BadRecipe(
            "--compare-speed times a quantized file beside float ones: add --precision "
            f"{' or '.join(SCHEMES)}, or compare bundles with vitedge bench."
        )
    if not any(form.on_processors for form in forms):
        raise BadRecipe(
            f"What is quantized for {forms[0].title} is not made for processors, so --compare-speed shows nothing of "
            f"it: export it with --format {DEFAULT} and without --for, or time it on the device."
        )


def compare_speed(
    quantized: Path,
    program: Program,
    recipe: ResolvedRecipe,
    device: str = LOCAL,
    rule: Rule = RULE,
) -> SpeedComparison:
    """Measures a quantized ONNX file beside float ones on a device; tells whether it is faster, and if not why.

    Args:
        quantized: the file.
        program: the float program of the same reference, with the same batch and input.
        recipe: of the export.
        device: where it is measured.
        rule: durations of the measurement.
    """
    target = registry.load(LOWERINGS, DEFAULT)
    with tempfile.TemporaryDirectory(prefix="vitedge-") as folder:
        paths = {recipe.precision: quantized, **{name: Path(folder) / f"{name}.onnx" for name in BASELINES}}
        for name in BASELINES:
            target.lower(program, replace(recipe, precision=name, quantization=None, rest=None), paths[name])
        models = [MeasuredModel(name, "onnxruntime", str(path)) for name, path in paths.items()]
        with connect(device) as session:
            report = measure_in_turn(models, session, rule)
    medians = {entry.subject: entry.quantiles.median for entry in report.reports}
    ratios = tuple(_inverted(ratio) for ratio in report.ratios)
    left = unfused(quantized)
    text = sentence(recipe.precision, ratios, medians, left, count_unpacked(quantized), report.inconclusive)
    return SpeedComparison(text, ratios, medians, left)


def sentence(
    name: str,
    ratios: tuple[LatencyRatio, ...],
    medians: Mapping[str, float],
    left: tuple[str, ...],
    unpacked: int = 0,
    inconclusive: str = "",
) -> str:
    """Returns the comparison in one line.

    Args:
        name: of the scheme.
        ratios: the quantized file's time over that of each float file.
        medians: median milliseconds of each file, by scheme or precision.
        left: quantized operations that ONNX Runtime computes in float all the same.
        unpacked: number of layers whose weights alone are integers.
        inconclusive: reason why no conclusion is drawn, or empty.
    """
    compared = ", ".join(
        f"{ratio.ratio:.2f} x {ratio.baseline} ({ratio.low:.2f} to {ratio.high:.2f})" for ratio in ratios
    )
    told = f"{name} takes {medians[name]:.2f} ms here: {compared}"
    if inconclusive:
        return f"{told}; no conclusion: {inconclusive}"
    slow = [ratio.baseline for ratio in ratios if ratio.verdict != "faster"]
    if not slow:
        return f"{told}; it is faster"
    return f"{told}; it is not faster than {' and '.join(slow)}: {_reason(left, unpacked)}"


def _reason(left: tuple[str, ...], unpacked: int) -> str:
    if not left and unpacked:
        return f"ONNX Runtime unpacks the weights of {unpacked} layers and computes in float32: only size is gained"
    if not left:
        return "ONNX Runtime computes every quantized layer with integers, and they are too small to gain by it"
    more = f", and {len(left) - _NAMED} more" if len(left) > _NAMED else ""
    return f"ONNX Runtime fuses not all of it: {'; '.join(left[:_NAMED])}{more}"


def _inverted(ratio: LatencyRatio) -> LatencyRatio:
    """Returns the inverse of a ratio, with subject and baseline exchanged."""
    return LatencyRatio(
        ratio.baseline,
        ratio.subject,
        1 / ratio.ratio,
        1 / ratio.high,
        1 / ratio.low,
        _OPPOSITE.get(ratio.verdict, ratio.verdict),
    )
