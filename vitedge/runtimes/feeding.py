# SPDX-License-Identifier: Apache-2.0
"""Conversion of images to the batches that an artifact or a program takes, and back to one output for each image.

The one place that pads a batch. NumPy only: a sealed bundle is fed where PyTorch is not installed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from vitedge.images.preprocess import normalize
from vitedge.progress import counted
from vitedge.records import Artifact, ModelSpec, TensorSpec
from vitedge.runtimes.base import Runtime

DYNAMIC_BATCH = 4
"""Images in a batch where the batch is dynamic."""

Images = TypeVar("Images", bound=Any)
"""A NumPy array or a PyTorch tensor whose first axis counts images."""


def batches(images: Images, size: int | str, most: int = DYNAMIC_BATCH) -> Iterator[Images]:
    """Yields images in batches.

    Args:
        images: ``(images, ...)``, a NumPy array or a PyTorch tensor.
        size: a fixed batch size, whose last batch is filled up with images from the beginning; or the name of a dynamic
            axis, whose last batch may be shorter.
        most: images in a batch where it is dynamic.
    """
    step = size if isinstance(size, int) else most
    for start in counted(range(0, len(images), step), unit="batch"):
        stop = start + step if isinstance(size, int) else min(start + step, len(images))
        yield images[np.arange(start, stop) % len(images)]


def as_input(images: npt.NDArray[np.uint8], image: TensorSpec, spec: ModelSpec) -> npt.NDArray[np.generic]:
    """Returns a batch as an input takes it.

    Args:
        images: ``(batch, channels, height, width)``, RGB, 0 to 255.
        image: the input; ``uint8`` or ``pixels`` takes the images as they are, every other one normalized.
        spec: gives mean, std and channel order.
    """
    if image.dtype == "uint8" or image.pixels:
        return images.astype(image.dtype, copy=False)
    normalized = normalize(images, spec.preprocessing)
    return normalized.astype(np.float16) if image.dtype == "float16" else normalized


def inputs(images: npt.NDArray[np.uint8], image: TensorSpec, spec: ModelSpec) -> Iterator[npt.NDArray[np.generic]]:
    """Yields the batches that an input takes over all images; see `batches` and `as_input`."""
    return (as_input(batch, image, spec) for batch in batches(images, image.shape[0]))


def run(
    runtime: Runtime,
    artifact: Artifact,
    images: npt.NDArray[np.uint8],
    spec: ModelSpec,
    names: Mapping[str, str],
) -> dict[str, npt.NDArray[np.generic]]:
    """Runs a loaded artifact over images.

    Args:
        runtime: has the artifact loaded.
        artifact: gives the input.
        images: ``(images, channels, height, width)``, RGB, 0 to 255.
        spec: gives the preprocessing.
        names: the caller's name of each value to the artifact's; values that the artifact does not return are left out.

    Returns:
        The caller's name to the values ``(images, ...)``.
    """
    image = artifact.inputs[0]
    return joined((runtime.run({image.name: batch}) for batch in inputs(images, image, spec)), len(images), names)


def joined(
    batches: Iterable[Mapping[str, npt.NDArray[np.generic]]], count: int, names: Mapping[str, str]
) -> dict[str, npt.NDArray[np.generic]]:
    """Returns the outputs of all batches as one array for each name, without those of images that only filled a batch.

    Args:
        batches: for each batch the artifact's names to its outputs ``(batch, ...)``.
        count: how many images there are.
        names: the caller's name of each value to the artifact's.
    """
    parts = list(batches)
    return {
        ours: np.concatenate([part[theirs] for part in parts])[:count]
        for ours, theirs in names.items()
        if all(theirs in part for part in parts)
    }


def output_names(expected: Iterable[str], artifact: Artifact) -> dict[str, str]:
    """Returns the reference's name of each output to the artifact's.

    They are the same; somebody else's file may call them otherwise, has as many, and keeps their order.
    """
    ours, theirs = tuple(expected), tuple(spec.name for spec in artifact.outputs)
    if set(ours) <= set(theirs) or len(ours) != len(theirs):
        return {name: name for name in ours}
    return dict(zip(ours, theirs, strict=True))
