# SPDX-License-Identifier: Apache-2.0
"""Inputs and outputs as the description of a Core ML model declares them. A part of the runner."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vitedge.records import TensorSpec

ARRAY_DTYPES = {65568: "float32", 65552: "float16", 65600: "float64", 131104: "int32", 131080: "int8"}
"""``ArrayFeatureType.ArrayDataType`` to NumPy's name."""
RECIPE = "vitedge.recipe"
"""Key of the metadata under which a package of vitedge carries the recipe that it was written by, as JSON."""
_GRAYSCALE = (10, 40)
"""``ImageFeatureType.ColorSpace``."""


def inputs(interface: Any, *, takes_pixels: bool = False) -> tuple[TensorSpec, ...]:
    """Returns the inputs; an image is ``uint8 (1, channels, height, width)``.

    Args:
        interface: the ``ModelDescription``, or that of one function.
        takes_pixels: whether an array holds the numbers of the image itself, 0 to 255.
    """
    found = (_feature(feature) for feature in interface.input)
    return tuple(replace(spec, pixels=takes_pixels and spec.dtype != "uint8") for spec in found)


def outputs(interface: Any) -> tuple[TensorSpec, ...]:
    """Returns the outputs that are tensors: not a classifier's label and table of probabilities."""
    labels = {interface.predictedFeatureName, interface.predictedProbabilitiesName}
    return tuple(_feature(feature) for feature in interface.output if feature.name not in labels)


def takes_pixels(recipe: Any) -> bool:
    """Returns whether a package's recipe says that its input is the image itself."""
    return isinstance(recipe, dict) and recipe.get("input") == "uint8"


def _feature(feature: Any) -> TensorSpec:
    """Returns the specification of an input or output; one that is no tensor has the name of its kind as dtype."""
    kind = feature.type.WhichOneof("Type")
    if kind == "imageType":
        image = feature.type.imageType
        channels = 1 if image.colorSpace in _GRAYSCALE else 3
        return TensorSpec(feature.name, (1, channels, int(image.height), int(image.width)), "uint8")
    if kind == "multiArrayType":
        array = feature.type.multiArrayType
        shape = tuple(int(edge) for edge in array.shape)
        return TensorSpec(feature.name, shape, ARRAY_DTYPES.get(array.dataType, "?"))
    return TensorSpec(feature.name, (), str(kind))
