# SPDX-License-Identifier: Apache-2.0
"""What the benchmark of the Arm board counts as within its limits, and what its file has to hold."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.arm_board import PROCESSORS, RESULTS, SUBJECTS, TINY, Exported, _row, missed
from vitedge.checkpoints.families.table import FAMILIES
from vitedge.records import OutputParity, ParityReport, Tolerance

OUTPUT = OutputParity("logits", 1e-6, 120.0, 30.0, 1.0, 1.0, 0.0)
ASKED = ("fp32", "int8", "int8-dynamic", "w8", "w4")


def row(precision: str, **found: Any) -> Any:
    anything: Any = None
    file = Exported("vit", precision, Path("model.onnx"), anything, anything, OUTPUT, "vit")
    report = ParityReport(
        artifact="model.onnx",
        runtime="onnxruntime",
        images=2,
        image_source="synthetic",
        tolerance=Tolerance(),
        outputs=(replace(OUTPUT, **found),),
        passed=True,
        machine={"version": "1.26.0"},
    )
    return _row(file, "max", report, "3.11.2")


@pytest.mark.parametrize(
    ("precision", "found", "outcome"),
    [
        ("fp32", {"relative_error": 2e-5}, "within"),
        ("fp32", {"relative_error": 3e-5}, "beyond"),
        ("fp32", {"relative_error": float("nan")}, "beyond"),
        ("fp32", {"centred_sqnr_db": 29.0}, "within"),
        ("fp16", {"centred_sqnr_db": 39.9}, "beyond"),
        ("int8", {"centred_sqnr_db": 29.9}, "within"),
        ("int8", {"centred_sqnr_db": 29.7}, "beyond"),
        ("w4", {"centred_sqnr_db": 30.3}, "beyond"),
        ("w4", {"centred_sqnr_db": float("nan")}, "beyond"),
    ],
)
def test_float_is_held_to_the_reference_and_integers_to_this_machine(
    precision: str, found: dict[str, float], outcome: str
) -> None:
    measured = row(precision, **found)
    assert measured.outcome == outcome
    assert bool(missed([measured])) is (outcome == "beyond")


def test_every_family_and_processor_is_in_the_committed_results() -> None:
    content = json.loads(RESULTS.read_text(encoding="utf-8"))
    found = {(entry["model"], entry["precision"], entry["place"]) for entry in content["rows"]}
    assert set(TINY) == {family.NAME for family in FAMILIES}
    assert {(model, precision, place) for model in SUBJECTS for precision in ASKED for place in PROCESSORS} <= found
    assert content["missed"] == []
