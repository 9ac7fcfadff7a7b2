# SPDX-License-Identifier: Apache-2.0
"""Checks whether TensorRT reads and fuses the int8 file for it, and measures what its restrictions cost in decibels.

``python -m benchmarks.quantization_tensorrt`` from the root of the repository writes
``benchmarks/results/quantization_tensorrt.json``; with names of models it measures those again and keeps the other
rows. The file is checked by `vitedge.export.tensorrt.readiness`; its outputs are computed by ONNX Runtime,
beside the file for processors, on images that neither has seen. A figure that misses its limit is written down like any
other and ends the script with exit code 1.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from torch import nn

from benchmarks.quantization_models import IMAGES, MODELS, lower, provenance, write_checkpoint
from benchmarks.sheet import Sheet, parser
from vitedge import registry
from vitedge.checkpoints.read import read
from vitedge.export.tensorrt.readiness import check
from vitedge.images.image_set import load
from vitedge.images.preprocess import normalize
from vitedge.models.reference import load_reference
from vitedge.parity.metrics import compare

RESULTS = Path(__file__).with_name("results") / "quantization_tensorrt.json"
PROFILE = "jetson-orin-nano"
EVALUATED = 32
LIMITS = {"below_processor_db": 2.0}
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Row:
    """One model."""

    model: str
    opset: int
    layer_norms: int
    """Operators in the file."""
    layer_norms_of_model: int
    quantizers: int
    findings: str
    """Findings that TensorRT would refuse or not fuse; empty is none."""
    checks: tuple[str, ...]
    """Checks that passed."""
    centred_sqnr_db: float
    processor_db: float
    """Centred SQNR in dB of the file for processors."""


def measure(title: str) -> Row:
    """One model, lowered for the profile and for processors."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = write_checkpoint(title, folder)
        reference = load_reference(read(str(checkpoint)))
        pixels = load("synthetic", reference.spec, EVALUATED, 1).pixels
        expected = reference.outputs(pixels, features=False)["logits"]
        images = normalize(pixels, reference.spec.preprocessing)
        plain = lower(checkpoint, folder / "processor", "int8")
        path = lower(checkpoint, folder / PROFILE, "int8", profiles=(PROFILE,))
        model = onnx.load(path)
        kinds = Counter(node.op_type for node in model.graph.node)
        found = check(path)
        return Row(
            model=title,
            opset=next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")),
            layer_norms=kinds["LayerNormalization"],
            layer_norms_of_model=sum(isinstance(part, nn.LayerNorm) for part in reference.module.modules()),
            quantizers=kinds["QuantizeLinear"],
            findings=found.reason,
            checks=found.checks,
            centred_sqnr_db=_sqnr(expected, path, images),
            processor_db=_sqnr(expected, plain, images),
        )


def _sqnr(expected: Array, path: Path, images: Array) -> float:
    with registry.load(registry.RUNTIMES, "onnxruntime").Runtime(path) as runtime:
        (image,), (output,) = runtime.inputs, runtime.outputs
        found = np.concatenate([runtime.run({image.name: one[None]})[output.name] for one in images])
    return round(compare({"logits": expected}, {"logits": found})[0].centred_sqnr_db, 2)


def missed(rows: Sequence[Row]) -> list[str]:
    """Returns the limits that are missed, each as a sentence."""
    found = [f"{row.model}: {row.findings}" for row in rows if row.findings]
    for row in rows:
        if row.layer_norms != row.layer_norms_of_model:
            found.append(f"{row.model}: {row.layer_norms} of {row.layer_norms_of_model} LayerNorms are one operator")
        if row.centred_sqnr_db < row.processor_db - LIMITS["below_processor_db"]:
            found.append(f"{row.model}: {row.centred_sqnr_db:.1f} dB, for processors {row.processor_db:.1f} dB")
    return found


def main() -> None:
    asked = parser(__doc__, "MODEL", MODELS, RESULTS).parse_args()
    told = provenance(profile=PROFILE, calibration_images=IMAGES, judged_images=EVALUATED, seeds=(0, 1))
    sheet = Sheet(asked.output, Row, _place, missed, {"provenance": told, "bars": LIMITS})
    for title in asked.chosen:
        row = measure(title)
        print(*asdict(row).values(), flush=True)
        sheet.put(row)
    sheet.finish()


def _place(row: Row) -> int:
    return list(MODELS).index(row.model)


if __name__ == "__main__":
    main()
