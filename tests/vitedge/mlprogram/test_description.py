# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.vitedge.mlprogram import handmade
from tests.vitedge.mlprogram.test_program import second_function
from vitedge.mlprogram import description, features
from vitedge.mlprogram.package import Package, read_package
from vitedge.mlprogram.program import read_program
from vitedge.records import TensorSpec


def read(folder: Path, alter: Callable[[Any], object]) -> Package:
    package = read_package(handmade.write(folder, alter))
    read_program(package)
    return package


def image(space: str) -> Callable[[Any], None]:
    """The input as an image of 6 x 4 pixels."""

    def alter(model: Any) -> None:
        feature = model.description.input[0].type.imageType
        feature.width, feature.height, feature.colorSpace = 6, 4, feature.ColorSpace.Value(space)
        function = model.mlProgram.functions["main"]
        function.inputs[0].type.Clear()
        shape = (1, 1 if space.startswith("GRAY") else 3, 4, 6)
        handmade.tensor_type(function.inputs[0].type, handmade.FLOAT32, shape)

    return alter


def array(code: int) -> Callable[[Any], None]:
    return lambda model: setattr(model.description.output[0].type.multiArrayType, "dataType", code)


def classifier(model: Any) -> None:
    model.description.predictedFeatureName = "label"
    model.description.predictedProbabilitiesName = "probabilities"
    model.description.output.add(name="label").type.stringType.SetInParent()
    model.description.output.add(name="probabilities").type.dictionaryType.stringKeyType.SetInParent()


def flexible(model: Any) -> None:
    """The batch is not fixed, and one is its default."""
    model.mlProgram.functions["main"].inputs[0].type.tensorType.dimensions[0].unknown.variadic = False


@pytest.mark.parametrize(("space", "channels", "bgr"), [("RGB", 3, False), ("BGR", 3, True), ("GRAYSCALE", 1, False)])
def test_an_image_is_bytes(tmp_path: Path, space: str, channels: int, bgr: bool) -> None:
    package = read(tmp_path, image(space))
    (found,) = description.inputs(package)
    assert (found.name, found.shape, found.dtype) == ("x", (1, channels, 4, 6), "uint8")
    assert description.is_bgr(package) == (frozenset({"x"}) if bgr else frozenset())


@pytest.mark.parametrize(("code", "dtype"), [(*pair,) for pair in features.ARRAY_DTYPES.items()] + [(7, "?")])
def test_an_array_has_its_type(tmp_path: Path, code: int, dtype: str) -> None:
    package = read(tmp_path, array(code))
    assert description.outputs(package) == (TensorSpec("y", (1, 3), dtype),)
    (found,) = description.inputs(package)
    assert (found.name, found.shape, found.dtype) == ("x", (1, 4), "float32")


def test_the_label_of_a_classifier_is_no_tensor(tmp_path: Path) -> None:
    package = read(tmp_path, classifier)
    assert [spec.name for spec in description.outputs(package)] == ["y"]
    assert description.output_names(package) == ("y", "label", "probabilities")


def test_of_several_functions_the_default_one_is_described(tmp_path: Path) -> None:
    package = read(tmp_path, second_function)
    assert [spec.name for spec in description.inputs(package)] == ["x"]
    assert [spec.name for spec in description.outputs(package)] == ["y"]


def test_an_edge_that_is_not_fixed_has_a_default(tmp_path: Path) -> None:
    (found,) = description.inputs(read(tmp_path, flexible))
    assert found.shape == (1, 4)
