# SPDX-License-Identifier: Apache-2.0
"""What is typed on a device, and the shapes of an engine: `trtexec` and `request`."""

from __future__ import annotations

import pytest

from vitedge.export.tensorrt.request import shapes_of
from vitedge.export.tensorrt.trtexec import command
from vitedge.records import Artifact, TensorSpec

SHAPES = {"image": ((1, 3, 8, 8), (8, 3, 8, 8), (32, 3, 8, 8))}


@pytest.mark.parametrize(
    ("builder", "versions", "quantized", "half", "options"),
    [
        ("tensorrt", ("8.2.1",), False, True, "--fp16"),
        ("tensorrt", ("8.6.2", "10.3.0"), True, False, "--int8 --fp16"),
        ("tensorrt", ("8.5.2",), False, False, ""),
        ("tensorrt", ("10.3.0", "10.16.1"), True, True, "--stronglyTyped"),
        ("tensorrt-rtx", ("1.7.1",), True, True, ""),
    ],
)
def test_precision_is_by_flags_before_types_are_those_of_the_file(
    builder: str, versions: tuple[str, ...], quantized: bool, half: bool, options: str
) -> None:
    found = command("my model.onnx", builder, versions, {}, quantized=quantized, half=half)
    program = "trtexec" if builder == "tensorrt" else "tensorrt_rtx"
    assert found == f"{program} '--onnx=my model.onnx' '--saveEngine=my model.engine' {options}".strip()


def test_a_dynamic_batch_has_its_range() -> None:
    found = command("m.onnx", "tensorrt", ("10.3.0",), SHAPES, quantized=False, half=True)
    assert found.endswith("--minShapes=image:1x3x8x8 --optShapes=image:8x3x8x8 --maxShapes=image:32x3x8x8")


def test_an_input_with_a_dynamic_batch_has_three_shapes_and_another_none() -> None:
    inputs = (TensorSpec("image", ("batch", 3, 8, 8), "float32"), TensorSpec("mask", (1, 4), "float32"))
    source = Artifact("onnx", "m.onnx", "", 0, "fp16", "opset 19", inputs, ())
    assert shapes_of(source) == SHAPES
    assert shapes_of(source, (2, 2))["image"] == ((1, 3, 8, 8), (2, 3, 8, 8), (2, 3, 8, 8))
