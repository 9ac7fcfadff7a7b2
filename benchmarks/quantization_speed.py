# SPDX-License-Identifier: Apache-2.0
"""Measures the speed of int8 on this processor, in turn with float32 and with other quantizers' int8.

``python -m benchmarks.quantization_speed`` from the root of the repository writes
``benchmarks/results/quantization_speed.json``; with names of models it measures those again and keeps the other rows.
Batch 1, two threads, each subject in a process of its own and all of one model in turn (`vitedge.latency`). Only ratios
of what was measured in turn mean anything: the machine's own speed changes from minute to minute. Ranges have no say in
speed, so few images calibrate. A figure that misses its limit is written down like any other and ends the script with
exit code 1.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.quantization_models import MODELS, lower, provenance, write_checkpoint, write_images
from benchmarks.quantization_peers import quantize
from benchmarks.sheet import Sheet, parser
from vitedge.devices.session import connect
from vitedge.latency.interleave import measure_in_turn
from vitedge.latency.model import MeasuredModel
from vitedge.latency.sampling import Rule
from vitedge.records import LatencyRatio, LatencyReport

RESULTS = Path(__file__).with_name("results") / "quantization_speed.json"
OURS = "vitedge int8"
FLOAT = "float32"
DYNAMIC = "ONNX Runtime dynamic"
SUBJECTS = {
    OURS: "onnxruntime",
    FLOAT: "onnxruntime",
    DYNAMIC: "onnxruntime",
    "float32 in OpenVINO": "openvino",
    "NNCF in OpenVINO": "openvino",
    "vitedge int8 in OpenVINO": "openvino",
}
"""Label to runtime."""
RULE = Rule(samples=200, seconds=12.0, rounds=20)
THREADS = 2
IMAGES = 8
LIMITS = {"ViT-S": 0.45, "DeiT-S": 0.45, "PiT-S": 0.5, "MobileViT-S": 0.7, "Swin-T": 0.5}
"""Largest median over that of float32; and none may be slower than ONNX Runtime's dynamic quantization."""


@dataclass(frozen=True)
class Row:
    """One file in one runtime."""

    model: str
    subject: str
    runtime: str
    minimum_ms: float
    median_ms: float
    p90_ms: float
    samples: int
    stable: bool
    ours_over_it: float | None = None
    """Median of our int8 in ONNX Runtime over this one's; below one is faster. None for our int8 itself."""
    low: float | None = None
    high: float | None = None
    """Bounds of the ratio's 95 % bootstrap interval."""


def subjects(title: str, folder: Path) -> list[MeasuredModel]:
    """Everything that is measured of one model."""
    checkpoint = write_checkpoint(title, folder)
    images = write_images(checkpoint, folder / "images.npy", IMAGES)
    model = lower(checkpoint, folder / "fp32")
    ours = lower(checkpoint, folder / "int8", "int8", count=IMAGES)
    dynamic, nncf = (quantize(method, model, images, folder) for method in ("dynamic", "nncf-openvino"))
    files = (ours, model, dynamic, model, nncf, ours)
    return [
        MeasuredModel(label, runtime, str(path), threads=THREADS)
        for (label, runtime), path in zip(SUBJECTS.items(), files, strict=True)
    ]


def measure(title: str) -> list[Row]:
    """One model, all subjects in turn."""
    with tempfile.TemporaryDirectory() as folder, connect("local") as session:
        report = measure_in_turn(subjects(title, Path(folder)), session, RULE)
    against = {ratio.subject: ratio for ratio in report.ratios}  # the first, ours, is what all are compared with
    return [_row(title, entry, against.get(entry.subject)) for entry in report.reports]


def _row(title: str, report: LatencyReport, ratio: LatencyRatio | None) -> Row:
    ours, low, high = (
        (None, None, None) if ratio is None else (round(1 / value, 3) for value in (ratio.ratio, ratio.high, ratio.low))
    )
    times = report.quantiles
    return Row(
        title,
        report.subject,
        report.runtime,
        round(times.minimum, 2),
        round(times.median, 2),
        round(times.p90, 2),
        report.samples,
        report.stable,
        ours,
        low,
        high,
    )


def missed(rows: Sequence[Row]) -> list[str]:
    """Returns the limits that our int8 misses, each as a sentence."""
    found = []
    for row in rows:
        if row.subject == FLOAT and row.ours_over_it is not None and row.ours_over_it > LIMITS[row.model]:
            found.append(f"{row.model}: {row.ours_over_it:.2f} x float32, and the limit is {LIMITS[row.model]:g}")
        if row.subject == DYNAMIC and row.low is not None and row.low > 1:
            found.append(f"{row.model}: slower than dynamic quantization, {row.ours_over_it:.2f} x")
    return found


def main() -> None:
    asked = parser(__doc__, "MODEL", MODELS, RESULTS).parse_args()
    told = provenance(seed=0, calibration_images=IMAGES, threads=THREADS, batch=1, rule=asdict(RULE))
    sheet = Sheet(asked.output, Row, _place, missed, {"provenance": told, "bars": LIMITS})
    for title in asked.chosen:
        for row in measure(title):
            print(*asdict(row).values(), flush=True)
            sheet.put(row)
    sheet.finish()


def _place(row: Row) -> tuple[int, int]:
    return list(MODELS).index(row.model), list(SUBJECTS).index(row.subject)


if __name__ == "__main__":
    main()
