# SPDX-License-Identifier: Apache-2.0
"""Counts the test images of the demo that each scheme of quantization gets wrong and the trained model got right.

``python -m benchmarks.quantization_demo`` from the root of the repository writes
``benchmarks/results/quantization_demo.json``; with names of schemes it measures those again and keeps the other rows.
The three models calibrate on digits that they were trained on and are evaluated in ONNX Runtime on the 540 that they
were not. A figure that misses its limit is written down like any other and ends the script with exit code 1.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quantization_models import lower, provenance
from benchmarks.sheet import Sheet, parser
from benchmarks.train_demo import split_digits
from vitedge import registry
from vitedge.checkpoints.read import read
from vitedge.demo.assets import IMAGES, MODELS, DemoModel, images
from vitedge.images.image_set import load
from vitedge.images.preprocess import normalize
from vitedge.latency.turns import size_of
from vitedge.models.reference import load_reference
from vitedge.parity.metrics import compare

RESULTS = Path(__file__).with_name("results") / "quantization_demo.json"
CALIBRATION = 128
LIMITS = {"int8": 3, "int8-dynamic": 1, "w8a16": 1, "w4": 8}
"""Scheme to the most images of top-1 that it may lose."""
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Row:
    """One model in one scheme."""

    model: str
    scheme: str
    images: int
    right: int
    """Images that the file classifies correctly."""
    right_in_float: int
    """Images that the PyTorch model classifies correctly."""
    lost: int
    """The difference."""
    agreement: float
    centred_sqnr_db: float
    kilobytes: float
    kilobytes_in_float: float


def measure(model: DemoModel, schemes: Sequence[str], folder: Path) -> Iterator[Row]:
    """One model, every scheme."""
    reference = load_reference(read(str(model.path), overrides=model.overrides))
    split = load(IMAGES, reference.spec, len(images()[1]))
    expected = reference.outputs(split.pixels, features=False)["logits"]
    labels = np.asarray(split.labels)
    plain = lower(model.path, folder / f"{model.name}-fp32", overrides=model.overrides)
    for scheme in schemes:
        path = lower(
            model.path,
            folder / f"{model.name}-{scheme}",
            scheme,
            str(folder / "training.npz"),
            CALIBRATION,
            overrides=model.overrides,
        )
        found = _outputs(path, normalize(split.pixels, reference.spec.preprocessing))
        parity = compare({"logits": expected}, {"logits": found})[0]
        right, in_float = (int(np.sum(logits.argmax(axis=1) == labels)) for logits in (found, expected))
        yield Row(
            model=model.name,
            scheme=scheme,
            images=len(labels),
            right=right,
            right_in_float=in_float,
            lost=in_float - right,
            agreement=round(parity.agreement or 0.0, 4),
            centred_sqnr_db=round(parity.centred_sqnr_db, 2),
            kilobytes=round(size_of(path) / 1e3, 1),
            kilobytes_in_float=round(size_of(plain) / 1e3, 1),
        )


def _outputs(path: Path, inputs: Array) -> Array:
    with registry.load(registry.RUNTIMES, "onnxruntime").Runtime(path) as runtime:
        (image,), (output,) = runtime.inputs, runtime.outputs
        return np.concatenate([runtime.run({image.name: one[None]})[output.name] for one in inputs])


def missed(rows: Sequence[Row]) -> list[str]:
    """Returns the limits that are missed, each as a sentence."""
    return [
        f"{row.model} loses {row.lost} images in {row.scheme}, and the limit is {LIMITS[row.scheme]}"
        for row in rows
        if row.lost > LIMITS[row.scheme]
    ]


def main() -> None:
    asked = parser(__doc__, "SCHEME", LIMITS, RESULTS).parse_args()
    told = provenance(weights="the demo's trained checkpoints", images="digits", calibration_images=CALIBRATION)
    sheet = Sheet(asked.output, Row, _place, missed, {"provenance": told, "bars": LIMITS})
    with tempfile.TemporaryDirectory() as name:
        training, _, labels, _ = split_digits()
        np.savez(Path(name) / "training.npz", images=training, labels=labels)
        for model in MODELS:
            for row in measure(model, asked.chosen, Path(name)):
                print(*asdict(row).values(), flush=True)
                sheet.put(row)
    sheet.finish()


def _place(row: Row) -> tuple[int, int]:
    return [model.name for model in MODELS].index(row.model), list(LIMITS).index(row.scheme)


if __name__ == "__main__":
    main()
