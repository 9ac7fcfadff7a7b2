# SPDX-License-Identifier: Apache-2.0
"""The interface of a package, as its model description declares it: inputs, outputs, images, classes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from vitedge.errors import UnreadableArtifact
from vitedge.mlprogram import features
from vitedge.mlprogram.features import RECIPE
from vitedge.mlprogram.limits import HIGHEST_RANK
from vitedge.mlprogram.literals import Reader, ValueType
from vitedge.mlprogram.package import Package
from vitedge.records import TensorSpec
from vitedge.sentences import some

_BGR = 30
"""``ImageFeatureType.ColorSpace``; RGB is 20."""


def inputs(package: Package) -> tuple[TensorSpec, ...]:
    """Returns the inputs; an image is ``uint8 (1, channels, height, width)``.

    Raises:
        UnreadableArtifact: the metadata of the package is damaged.
    """
    recipe = metadata(package, RECIPE)
    return features.inputs(package.interface, takes_pixels=features.takes_pixels(recipe))


def outputs(package: Package) -> tuple[TensorSpec, ...]:
    """Returns the outputs that are tensors: not a classifier's label and table of probabilities."""
    return features.outputs(package.interface)


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
    for described in (interface.input, interface.output):
        reader.count(len(described))
        names = {reader.name(feature.name) for feature in described}
        if len(names) < len(described):
            raise reader.refused("it describes two features of one name")
        if any(len(feature.type.multiArrayType.shape) > HIGHEST_RANK for feature in described):
            raise reader.refused(f"it describes a feature of a rank above {HIGHEST_RANK}")
    declared_inputs = inputs(reader.package)
    if {spec.name for spec in declared_inputs} != set(takes):
        raise reader.refused(
            f"it describes the inputs {some(spec.name for spec in declared_inputs)} of a program that takes "
            f"{some(takes)}"
        )
    for spec in declared_inputs:
        declared = takes[spec.name].shape or ()
        if len(spec.shape) != len(declared) or any(
            a not in (None, b) for a, b in zip(declared, spec.shape, strict=True)
        ):
            raise reader.refused(
                f"it describes {spec.name} as {_listed(spec.shape)} and its program takes {_listed(declared)}"
            )


def _listed(shape: tuple[int | str | None, ...]) -> str:
    return "x".join("?" if edge is None else str(edge) for edge in shape) or "a number"
