# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from dataclasses import replace

from tests.vitedge.images.specs import make_spec
from vitedge.images.steps import preprocessing_steps
from vitedge.records import ModelSpec


def changed(spec: ModelSpec, **facts: object) -> ModelSpec:
    return replace(spec, preprocessing=replace(spec.preprocessing, **facts))


def test_the_steps_of_an_ordinary_model_stand_in_their_order() -> None:
    spec = make_spec((32, 48), crop=0.875)
    found = preprocessing_steps(spec, "float32")
    assert json.loads(json.dumps(found)) == [
        {"step": "open", "mode": "RGB", "exif": True, "transparency": "white"},
        {"step": "resize", "edge": "short", "height": 36, "width": 54, "interpolation": "bicubic", "kernel": "pillow"},
        {"step": "crop", "height": 32, "width": 48, "offset": "round", "fill": [0, 0, 0]},
        {"step": "pixels", "axes": "HWC", "dtype": "uint8"},
        {"step": "scale", "divisor": 255},
        {"step": "normalize", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
        {"step": "layout", "axes": "NCHW", "dtype": "float32"},
    ]


def test_what_a_model_does_itself_is_no_step() -> None:
    found = preprocessing_steps(changed(make_spec((32, 32)), channel_order="bgr"), "uint8")
    assert [step["step"] for step in found] == ["open", "resize", "crop", "pixels", "layout"]
    assert found[-1]["dtype"] == "uint8"


def test_a_crop_that_does_nothing_is_no_step() -> None:
    squashed = changed(make_spec((32, 32), crop=1.0), crop_mode="squash")
    assert "crop" not in [step["step"] for step in preprocessing_steps(squashed, "float32")]
    bordered = preprocessing_steps(changed(squashed, crop_mode="border", channel_order="bgr"), "float32")
    assert [step["fill"] for step in bordered if step["step"] == "crop"] == [[104, 116, 124]]
    assert {"step": "channels", "order": "bgr"} in bordered


def test_grey_and_other_numbers_of_channels_begin_otherwise() -> None:
    assert preprocessing_steps(make_spec((32, 32), 1), "float32")[0]["mode"] == "L"
    spec = make_spec((32, 32))
    assert preprocessing_steps(replace(spec, in_channels=4), "uint8")[0] == {"step": "array", "channels": 4}


def test_the_kernel_is_that_of_the_library_that_resized() -> None:
    by_torch = changed(make_spec((32, 32)), resizer="torch")
    assert preprocessing_steps(by_torch, "uint8")[1]["kernel"] == "torch"
    assert preprocessing_steps(changed(by_torch, interpolation="nearest"), "uint8")[1]["kernel"] == "pillow"
