# SPDX-License-Identifier: Apache-2.0
"""What to try, in order, where an artifact exceeds its tolerance: every step can be typed as it stands."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from vitedge.quantization.file.header import SUFFIX
from vitedge.quantization.records import LayerDiagnosis
from vitedge.recipe import CALIBRATED, CALIBRATION_COUNT, SCHEMES, Precision, ResolvedRecipe
from vitedge.records import OutputParity
from vitedge.registry import versions

_EXACT_HALVES = (1, 30)
"""Release of ONNX Runtime from which QuantizeLinear of float16 divides in float32: a tiny ViT has 18.9 dB before it,
and 26.9 from it on."""
_MORE = 4
"""Times the images of a calibration that was too small."""


def remedies(
    source: str,
    recipe: ResolvedRecipe,
    outputs: Sequence[OutputParity],
    diagnoses: Sequence[LayerDiagnosis] = (),
    spread_db: float = 0.0,
) -> str:
    """Returns what can be done, as a sentence that follows what was measured.

    Args:
        source: the checkpoint or the quantized file.
        recipe: of the export.
        outputs: how far the artifact is off.
        diagnoses: of the layers of its quantized program, where it has one.
        spread_db: decibels by which a file may lie below ``outputs``, where those are simulated.
    """
    allowed = _allowed(recipe, outputs, spread_db)
    if recipe.precision not in SCHEMES:
        steps = [] if recipe.precision is Precision.FP32 else ["export it with --precision fp32"]
        steps += [f"if the task allows it, {allowed}"] if allowed else []
        return f" To try: {'; or '.join(steps)}." if steps else ""
    if source.endswith(SUFFIX):
        again = "the checkpoint again with vitedge quantize --scheme mixed"
        return f" What {Path(source).name} rounds is fixed: quantize {again}, or add {allowed}."
    newer = () if spread_db else _newer_runtime(recipe)
    steps = [*newer, *_rounded_less(recipe, diagnoses)]
    steps += [f"if the task allows it, {allowed}"] if allowed else []
    return f" To try, in this order: {'; '.join(steps)}."


def _newer_runtime(recipe: ResolvedRecipe) -> Iterator[str]:
    """Yields the release of ONNX Runtime that computes a quantized file of half precision as it is meant."""
    if not recipe.is_half:
        return
    for package, release in versions(("onnxruntime", "onnxruntime-gpu")).items():
        if tuple(int(part) for part in release.split(".")[:2]) < _EXACT_HALVES:
            python = "" if sys.version_info >= (3, 11) else "Python 3.11, which it needs, and "
            yield f"{python}{package} 1.30 or newer: {release} divides in float16 where it rounds, which loses decibels"


def _rounded_less(recipe: ResolvedRecipe, diagnoses: Sequence[LayerDiagnosis]) -> Iterator[str]:
    """Yields ways to a program that loses less by rounding, the least effort first."""
    asked = recipe.quantization
    if recipe.precision in CALIBRATED:
        if asked is None or asked.images in (None, "synthetic"):
            yield "images of what the model will see, --images DIR"
        elif asked.image_count < CALIBRATION_COUNT:
            more = min(CALIBRATION_COUNT, _MORE * asked.image_count)
            yield f"more images to calibrate on than {asked.image_count}, --quantization image-count={more}"
    worst = min(diagnoses, key=lambda one: one.alone_db, default=None)
    if worst is not None and math.isfinite(worst.alone_db):
        layer = shlex.quote(f"{worst.layer}=float")
        yield f"the layer that loses most in float ({worst.alone_db:.1f} dB), --layer {layer}"
    if recipe.precision in CALIBRATED and recipe.precision is not Precision.MIXED:
        yield "what loses most in float until 30 dB are met, --precision mixed"
    if recipe.precision is not Precision.W8:
        yield "weights alone, --precision w8"


def _allowed(recipe: ResolvedRecipe, outputs: Sequence[OutputParity], spread_db: float) -> str:
    """Returns the option that makes the tolerance what was measured; empty where a number cannot."""
    if not all(math.isfinite(one.relative_error) and not one.degenerate for one in outputs):
        return ""
    if recipe.precision is Precision.FP32:
        return f"--max-error {_above(max(one.relative_error for one in outputs)):g}"
    least = min(one.centred_sqnr_db for one in outputs) - spread_db
    return f"--min-sqnr {math.floor(10 * least) / 10:g}"


def _above(value: float) -> float:
    """Returns a number of two digits that is not below a positive one."""
    step = 10.0 ** (math.floor(math.log10(value)) - 1) if value > 0 else 1e-12
    return math.ceil(value / step) * step
