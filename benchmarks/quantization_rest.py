# SPDX-License-Identifier: Apache-2.0
"""Measures what a rest in half precision costs quantized models: int8 with fp16 beside int8 with fp32, in decibels.

``python -m benchmarks.quantization_rest`` from the root of the repository writes
``benchmarks/results/quantization_rest.json``; with names of models it measures those again and keeps other rows. The
file for TensorRT is computed by ONNX Runtime, the Core ML package op by op by the runtime ``mlprogram``, on images that
the calibration has not seen. A figure that misses its limit ends the script with exit code 1.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quantization_models import MODELS, provenance, write_checkpoint
from benchmarks.sheet import Sheet, parser
from vitedge import registry
from vitedge.checkpoints.read import read
from vitedge.export import to_coreml, to_onnx
from vitedge.export.float16.float32_modules import HalfPrecision
from vitedge.export.formats import FORMATS, FORMS
from vitedge.images.image_set import load
from vitedge.images.preprocess import normalize
from vitedge.models.reference import Reference, load_reference
from vitedge.parity.metrics import compare, default_tolerance
from vitedge.program.unrounded import without_rounding
from vitedge.recipe import FloatType, QuantizationRecipe, ResolvedRecipe
from vitedge.verbs.quantize import quantize_reference

RESULTS = Path(__file__).with_name("results") / "quantization_rest.json"
EVALUATED = {"tensorrt": 64, "coreml": 8}
"""Images, by the form: the op-by-op computation of a package is slow."""
LIMITS = {"loss_db": 0.3}
IMAGES = 32
"""For the calibration: what is compared here is the same quantization with two rests."""
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Row:
    """One model in one form."""

    model: str
    outliers: bool
    """Whether channels of its LayerNorms were made outliers."""
    form: str
    images: int
    fp32_db: float
    """Centred SQNR in dB against PyTorch with the rest in fp32."""
    fp16_db: float
    """The same with the rest in fp16."""
    float32_modules: int
    """Modules that stay in float32 because the values ask for it."""


def measure(title: str) -> Iterator[Row]:
    """Yields the rows of one model."""
    for outliers in (False, True):
        with tempfile.TemporaryDirectory() as name:
            checkpoint = write_checkpoint(title, Path(name), outliers=outliers)
            reference = load_reference(read(str(checkpoint)))
            for form, count in EVALUATED.items():
                yield _measure(Row(title, outliers, form, count, 0.0, 0.0, 0), reference, Path(name))


def _measure(row: Row, reference: Reference, folder: Path) -> Row:
    asked = QuantizationRecipe(images="synthetic", image_count=IMAGES)
    recipe = ResolvedRecipe(precision="int8", quantization=asked)
    job = quantize_reference(reference, recipe, FORMS[row.form], features=False)
    program = job.program(1)
    pixels = load("synthetic", reference.spec, row.images, 1).pixels
    expected = reference.outputs(pixels, features=False)
    images = normalize(pixels, reference.spec.preprocessing)
    name, lowering = ("coreml", to_coreml) if row.form == "coreml" else ("onnx", to_onnx)
    tolerance = default_tolerance("fp16", reference.spec.family).centred_sqnr_db or 0.0
    wanted = max(tolerance, FORMATS[name].fp16_sqnr_db)
    kept = HalfPrecision(without_rounding(program), pixels, expected).float32_modules(wanted).modules
    found = {}
    for rest in FloatType:
        path = folder / f"{row.form}-{rest}{FORMATS[name].suffix}"
        written = ResolvedRecipe(formats=(name,), precision="int8", form=row.form, rest=rest)
        modules = kept if rest is FloatType.FP16 else ()
        (output,) = lowering.lower(program, written, path, modules).outputs
        found[rest] = _sqnr(expected["logits"], _run(FORMATS[name].runtimes[0], path, images)[output.name])
    return Row(row.model, row.outliers, row.form, row.images, found[FloatType.FP32], found[FloatType.FP16], len(kept))


def _run(name: str, path: Path, images: Array) -> dict[str, Array]:
    with registry.load(registry.RUNTIMES, name).Runtime(path) as runtime:
        (image,) = runtime.inputs
        parts = [runtime.run({image.name: one[None]}) for one in images]
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def _sqnr(expected: Array, found: Array) -> float:
    return round(compare({"logits": expected}, {"logits": found})[0].centred_sqnr_db, 2)


def missed(rows: Sequence[Row]) -> list[str]:
    """Returns the limits that are missed, each as a sentence."""
    return [
        f"{row.model}{' with outliers' if row.outliers else ''} for {row.form}: {row.fp16_db:.2f} dB with the rest in "
        f"fp16, {row.fp32_db:.2f} dB in fp32"
        for row in rows
        if row.fp16_db < row.fp32_db - LIMITS["loss_db"]
    ]


def main() -> None:
    asked = parser(__doc__, "MODEL", MODELS, RESULTS).parse_args()
    told = provenance(calibration_images=IMAGES, evaluated_images=EVALUATED, seeds=(0, 1))
    sheet = Sheet(asked.output, Row, _place, missed, {"provenance": told, "limits": LIMITS})
    for title in asked.chosen:
        for row in measure(title):
            print(row, flush=True)
            sheet.put(row)
    sheet.finish()


def _place(row: Row) -> tuple[int, bool, int]:
    return list(MODELS).index(row.model), row.outliers, list(EVALUATED).index(row.form)


if __name__ == "__main__":
    main()
