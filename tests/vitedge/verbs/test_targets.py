# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from vitedge.errors import BadRecipe
from vitedge.recipe import ExportRecipe, FloatType
from vitedge.verbs.resolve import resolve
from vitedge.verbs.targets import Target, targets


def found(**asked: object) -> tuple[Target, ...]:
    return targets(resolve(ExportRecipe(**asked), "m.pth"))  # type: ignore[arg-type]


def test_every_artifact_is_written_as_if_it_were_asked_for_alone() -> None:
    together = found(formats=("onnx", "coreml", "tensorrt"), precision="int8")
    assert [(one.file, one.recipe.form, one.engine) for one in together] == [
        ("model.onnx", "processor", False),
        ("model.mlpackage", "coreml", False),
        ("model.rtx.onnx", "tensorrt", True),
    ]
    alone = (
        *found(precision="int8"),
        *found(formats=("coreml",), precision="int8"),
        *found(formats=("onnx",), profiles=("rtx",), precision="int8"),
    )
    assert [one.recipe for one in together] == [one.recipe for one in alone]


def test_an_engine_starts_from_the_onnx_file_of_its_profile_which_is_written_once() -> None:
    (one,) = found(formats=("tensorrt", "onnx"), profiles=("jetson-orin-nano",))
    assert (one.format, one.file, one.engine, one.recipe.opset) == ("onnx", "model.onnx", True, 17)


def test_each_of_several_profiles_has_its_own_file_and_opset() -> None:
    both = found(profiles=("cpu-x86", "rtx", "iphone"), precision="int8")
    assert [(one.file, one.recipe.form, one.recipe.opset) for one in both] == [
        ("model.cpu-x86.onnx", "processor", None),
        ("model.rtx.onnx", "tensorrt", 19),
        ("model.mlpackage", "coreml", None),
    ]


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"profiles": ("cpu-x86", "rtx")}, r"different precisions: say --precision fp32 or fp16"),
        (
            {"profiles": ("cpu-x86", "rtx"), "formats": ("onnx", "coreml"), "precision": "fp32"},
            "None of cpu-x86, rtx has use for coreml",
        ),
        ({"profiles": ("cpu-x86", "iphone"), "formats": ("onnx",), "precision": "fp32"}, "no use for onnx"),
        ({"opset": 18, "precision": "int8", "rest": "fp16"}, "--rest fp16 needs opset 19"),
        ({"precision": "fp16", "rest": "fp16"}, "fp16 quantizes nothing"),
        ({"engine_batch": (8, 4)}, "--engine-batch is the batch to tune for and the largest, such as 8:32; got 8:4"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(asked: dict[str, object], sentence: str) -> None:
    with pytest.raises(BadRecipe, match=sentence):
        found(**asked)


def test_what_is_not_quantized_is_half_where_the_compiler_computes_in_half() -> None:
    both = found(formats=("onnx", "coreml", "tensorrt"), precision="w8")
    assert [one.recipe.rest for one in both] == [FloatType.FP32, FloatType.FP16, FloatType.FP16]
    assert [one.recipe.is_half for one in both] == [False, True, True]
    (old,) = found(profiles=("jetson-orin-nano",), formats=("tensorrt",), precision="int8")
    assert old.recipe.rest is FloatType.FP32, "opset 17 has no float16 scales"
    (asked,) = found(formats=("coreml",), precision="int8", rest="fp32")
    assert asked.recipe.rest is FloatType.FP32
    assert not found(precision="fp32")[0].recipe.is_half


def test_what_finds_its_ranges_at_run_time_is_float32_between_its_integers() -> None:
    assert found(precision="int8-dynamic")[0].recipe.rest is FloatType.FP32
    with pytest.raises(BadRecipe, match="not for int8-dynamic"):
        found(precision="int8-dynamic", rest="fp16")
