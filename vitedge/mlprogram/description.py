# SPDX-License-Identifier: Apache-2.0
"""The interface of a package, as its model description declares it: inputs, outputs, images, classes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vitedge.errors import UnreadableArtifact
from vitedge.mlprogram.limits import HIGHEST_RANK
from vitedge.mlprogram.literals import Reader, ValueType
from vitedge.mlprogram.package import Package
from vitedge.records import TensorSpec
from vitedge.sentences import some

ARRAY_DTYPES = {65568: "float32", 65552: "float16", 65600: "float64", 131104: "int32", 131080: "int8"}
"""``ArrayFeatureType.ArrayDataType`` to NumPy's name."""
_GRAYSCALE, _BGR = (10, 40), 30
"""``ImageFeatureType.ColorSpace``; the other one is RGB, 20."""


def inputs(package: Package) -> tuple[TensorSpec, ...]:
    """Returns the inputs; an image is ``uint8 (1, channels, height, width)``.

    Raises:
        UnreadableArtifact: the metadata of the package is damaged.
    """
    recipe = metadata(package, "vitedge.recipe")
    pixels = isinstance(recipe, dict) and recipe.get("input") == "uint8"
    features = (_feature(feature) for feature in package.interface.input)
    return tuple(replace(spec, pixels=pixels and spec.dtype != "uint8") for spec in features)


def outputs(package: Package) -> tuple[TensorSpec, ...]:
    """Returns the outputs that are tensors: not a classifier's label and table of probabilities."""
    labels = {package.interface.predictedFeatureName, package.interface.predictedProbabilitiesName}
    return tuple(_feature(feature) for feature in package.interface.output if feature.name not in labels)


def output_names(package: Package) -> tuple[str, ...]:
    """Returns the names of all outputs, those of a classifier included."""
    return tuple(feature.name for feature in package.interface.output)


def is_bgr(package: Package) -> frozenset[str]:
    """Returns the names of the image inputs whose channels the program takes as blue, green, red."""
    return frozenset(
        feature.name
        for feature in package.interface.input
        if feature.type.WhichOneof("Type") == "imageType" and feature.type.imageType.colorSpace == _BGR
    )


def metadata(package: Package, key: str) -> Any:
    """Returns one of the records that a package of vitedge carries as JSON; None where it has none.

    Raises:
        UnreadableArtifact: it is not JSON.
    """
    entries = package.model.description.metadata.userDefined
    if key not in entries:
        return None
    try:
        return json.loads(entries[key])
    except (ValueError, RecursionError) as error:
        raise UnreadableArtifact(f"{package.path} is damaged: its {key} is not JSON.") from error


def check_interface(reader: Reader, takes: Mapping[str, ValueType]) -> None:
    """Checks that the inputs that a package describes are those of its program.

    Args:
        reader: of the program.
        takes: name to type of the inputs of the function that runs.

    Raises:
        UnreadableArtifact: a name or a shape is another, or a feature is described twice.
    """
    interface = reader.package.interface
    for features in (interface.input, interface.output):
        reader.count(len(features))
        names = {reader.name(feature.name) for feature in features}
        if len(names) < len(features):
            raise reader.refused("it describes two features of one name")
        if any(len(feature.type.multiArrayType.shape) > HIGHEST_RANK for feature in features):
            raise reader.refused(f"it describes a feature of a rank above {HIGHEST_RANK}")
    described = inputs(reader.package)
    if {spec.name for spec in described} != set(takes):
        raise reader.refused(
            f"it describes the inputs {some(spec.name for spec in described)} of a program that takes {some(takes)}"
        )
    for spec in described:
        declared = takes[spec.name].shape or ()
        if len(spec.shape) != len(declared) or any(
            a not in (None, b) for a, b in zip(declared, spec.shape, strict=True)
        ):
            raise reader.refused(
                f"it describes {spec.name} as {_listed(spec.shape)} and its program takes {_listed(declared)}"
            )


def _listed(shape: tuple[int | str | None, ...]) -> str:
    return "x".join("?" if edge is None else str(edge) for edge in shape) or "a number"


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
