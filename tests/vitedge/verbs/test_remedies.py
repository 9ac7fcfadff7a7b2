# SPDX-License-Identifier: Apache-2.0
"""Tests of `remedies`: the order of what is tried, and the numbers in it; `tests.vitedge.test_mistakes` types them."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from vitedge.quantization.records import LayerDiagnosis
from vitedge.recipe import FloatType, Precision, QuantizationRecipe, ResolvedRecipe
from vitedge.records import OutputParity
from vitedge.verbs.remedies import remedies

FAR = OutputParity("logits", 3.01e-3, 17.38, 17.38, 0.99, 0.9, None)
LAYERS = tuple(LayerDiagnosis(f"blocks.{index}", 20.0, alone, 40.0, 40.0, 0.0) for index, alone in enumerate((31, 19)))


def asked(precision: str, **settings: object) -> ResolvedRecipe:
    quantization = QuantizationRecipe(Precision(precision), **settings) if settings else None  # type: ignore[arg-type]
    return ResolvedRecipe(formats=("onnx",), precision=Precision(precision), quantization=quantization)


@pytest.mark.parametrize(
    ("recipe", "steps"),
    [
        (
            asked("int8", images="photos", image_count=16),
            ("--quantization image-count=64", "--layer blocks.1=float", "--precision mixed", "--precision w8"),
        ),
        (
            asked("int8", images="synthetic"),
            ("--images DIR", "--layer blocks.1=float", "--precision mixed", "--precision w8"),
        ),
        (asked("mixed", images="photos"), ("--layer blocks.1=float", "--precision w8")),
        (asked("w8"), ("--layer blocks.1=float",)),
    ],
)
def test_what_is_tried_begins_with_what_takes_least(recipe: ResolvedRecipe, steps: tuple[str, ...]) -> None:
    told = remedies("m.pth", recipe, [FAR], LAYERS)
    assert told.startswith(" To try, in this order: ")
    places = [told.index(step) for step in (*steps, "--min-sqnr 17.3")]
    assert places == sorted(places)
    assert told.count("--") == len(places)


def test_a_float_file_has_a_tolerance_that_it_keeps() -> None:
    assert "--max-error 0.0031." in remedies("m.pth", asked("fp32"), [FAR])
    told = remedies("m.pth", asked("fp16"), [FAR])
    assert told.index("--precision fp32") < told.index("--min-sqnr 17.3")


def test_what_a_simulation_allows_a_file_keeps_though_it_is_farther_off() -> None:
    assert "--min-sqnr 16.3." in remedies("m.pth", asked("int8"), [FAR], spread_db=1.0)


def test_a_quantized_file_is_made_anew() -> None:
    told = remedies("m.pt2", asked("int8"), [FAR], LAYERS)
    assert "vitedge quantize --scheme mixed" in told
    assert "--layer" not in told


def test_outputs_that_no_number_describes_have_no_tolerance() -> None:
    broken = OutputParity("logits", float("nan"), 1.0, 1.0, 0.0, 0.0, None)
    assert remedies("m.pth", asked("fp32"), [broken]) == ""
    assert "--min-sqnr" not in remedies("m.pth", asked("int8"), [broken], LAYERS)


@pytest.mark.parametrize(("release", "told"), [("1.29.1", True), ("1.30.0", False), ("1.100.0", False)])
def test_a_runtime_that_divides_in_half_precision_is_named_first(
    release: str, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitedge.verbs.remedies.versions", lambda _packages: {"onnxruntime": release})
    monkeypatch.setattr(sys, "version_info", (3, 11))
    half = replace(asked("int8", images="photos"), rest=FloatType.FP16)
    said = remedies("m.pth", half, [FAR], LAYERS)
    assert said.startswith(" To try, in this order: onnxruntime 1.30 or newer: 1.29.1 divides") == told
    monkeypatch.setattr(sys, "version_info", (3, 10))
    assert ("order: Python 3.11, which it needs, and onnx" in remedies("m.pth", half, [FAR], LAYERS)) == told
    assert "1.30" not in remedies("m.pth", half, [FAR], LAYERS, spread_db=1.0)  # a simulation is no runtime's
    assert "1.30" not in remedies("m.pth", asked("int8", images="photos"), [FAR], LAYERS)
