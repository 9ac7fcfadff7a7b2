# SPDX-License-Identifier: Apache-2.0
"""The interface of a package, as its model description declares it: inputs, outputs, images, classes."""

from __future__ import annotations

from typing import Any

from vitedge.mlprogram.package import Package
from vitedge.records import TensorSpec

_ARRAY_DTYPES = {65568: "float32", 65552: "float16", 65600: "float64", 131104: "int32", 131080: "int8"}
"""``ArrayFeatureType.ArrayDataType`` to NumPy's name."""
_GRAYSCALE, _BGR = (10, 40), 30
"""``ImageFeatureType.ColorSpace``; the other one is RGB, 20."""


def inputs(package: Package) -> tuple[TensorSpec, ...]:
    """The inputs; an image is ``uint8 (1, channels, height, width)``."""
    return tuple(_feature(feature) for feature in package.model.description.input)


def outputs(package: Package) -> tuple[TensorSpec, ...]:
    """The outputs that are tensors: not the label of a classifier and its table of probabilities."""
    description = package.model.description
    labels = {description.predictedFeatureName, description.predictedProbabilitiesName}
    return tuple(_feature(feature) for feature in description.output if feature.name not in labels)


def is_bgr(package: Package) -> frozenset[str]:
    """Names of the image inputs whose channels the program takes as blue, green, red."""
    return frozenset(
        feature.name
        for feature in package.model.description.input
        if feature.type.WhichOneof("Type") == "imageType" and feature.type.imageType.colorSpace == _BGR
    )


def _feature(feature: Any) -> TensorSpec:
    """What is no tensor has the name of its kind as dtype."""
    kind = feature.type.WhichOneof("Type")
    if kind == "imageType":
        image = feature.type.imageType
        channels = 1 if image.colorSpace in _GRAYSCALE else 3
        return TensorSpec(feature.name, (1, channels, int(image.height), int(image.width)), "uint8")
    if kind == "multiArrayType":
        array = feature.type.multiArrayType
        shape = tuple(int(edge) for edge in array.shape)
        return TensorSpec(feature.name, shape, _ARRAY_DTYPES.get(array.dataType, "?"))
    return TensorSpec(feature.name, (), str(kind))
