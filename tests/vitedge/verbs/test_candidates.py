# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from tests.bad_files import VIT
from vitedge.errors import BadRecipe
from vitedge.recipe import ExportRecipe, QuantizationRecipe
from vitedge.verbs.candidates import CompareOptions, Planned, plan

IMAGES = ExportRecipe(images="photos")


def names(recipe: ExportRecipe, *precisions: str) -> list[str]:
    return [one.name for one in planned(recipe, *precisions)]


def planned(recipe: ExportRecipe, *precisions: str) -> tuple[Planned, ...]:
    return plan(str(VIT), CompareOptions(recipe, precisions))  # type: ignore[arg-type]


def test_without_a_profile_it_is_three_precisions_in_onnx() -> None:
    assert names(IMAGES) == ["onnx fp32", "onnx fp16", "onnx int8"]
    assert names(ExportRecipe(formats=("onnx", "coreml")), "fp32") == ["onnx fp32", "coreml fp32"]


@pytest.mark.parametrize(
    ("profile", "expected"),
    [
        ("cpu-x86", ["onnx fp32", "onnx fp16", "onnx int8", "onnx int8-dynamic"]),
        ("iphone", ["coreml fp32", "coreml fp16", "coreml int8"]),
        ("iphone-a12", ["coreml fp32", "coreml fp16", "coreml int8", "coreml w8"]),
        ("iphone-a11", ["coreml fp32", "coreml fp16"]),
        ("rtx", ["tensorrt fp32", "tensorrt fp16", "tensorrt int8"]),
    ],
)
def test_a_profile_offers_what_its_device_does_well(profile: str, expected: list[str]) -> None:
    assert names(ExportRecipe(images="photos", profiles=(profile,))) == expected


def test_several_profiles_have_candidates_each() -> None:
    found = names(ExportRecipe(profiles=("cpu-x86", "iphone"), images="photos"), "fp32")
    assert found == ["onnx fp32 cpu-x86", "coreml fp32 iphone"]


def test_every_candidate_is_asked_for_as_an_export_of_its_own_would_be() -> None:
    common = ExportRecipe(images="photos", seed=3, rest="fp32", quantization=QuantizationRecipe(block=16, seed=3))
    fp32, w8 = (one.asked for one in planned(common, "fp32", "w8"))
    assert (fp32.precision, fp32.formats, fp32.quantization, fp32.rest) == ("fp32", ("onnx",), None, None)
    assert w8.quantization == QuantizationRecipe("w8", images="photos", block=16, seed=3)
    assert (w8.rest, w8.seed) == ("fp32", 3)


def test_what_cannot_be_made_is_planned_with_the_reason() -> None:
    fp32, int8 = planned(ExportRecipe(), "fp32", "int8")
    assert fp32.recipe is not None
    assert int8.recipe is None
    assert "add --images DIR" in str(int8.refused)
    dynamic = planned(ExportRecipe(batch="dynamic"), "fp32", "int8-dynamic")[1]
    assert "give --batch a number" in str(dynamic.refused)


def test_an_unknown_profile_or_format_ends_it() -> None:
    with pytest.raises(BadRecipe, match="toaster"):
        planned(ExportRecipe(profiles=("toaster",)))
    with pytest.raises(BadRecipe, match="tflite"):
        planned(ExportRecipe(formats=("tflite",)))


def test_where_nothing_can_be_made_the_reason_is_raised() -> None:
    with pytest.raises(BadRecipe, match="does not run int8"):
        planned(ExportRecipe(profiles=("iphone-a11",), images="photos"), "int8")
