# SPDX-License-Identifier: Apache-2.0
"""A Core ML package through coremltools' predict, which exists on macOS only."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import coremltools
import numpy as np
from PIL import Image

from vitedge.errors import BadRecipe, DeviceFailed, UnreadableArtifact
from vitedge.mlprogram.features import RECIPE, inputs, outputs, takes_pixels
from vitedge.records import TensorSpec
from vitedge.runtimes.base import Arrays


class Runtime:
    """One loaded package on all compute units, whose threads Core ML chooses. See `vitedge.runtimes.base.Runtime`."""

    def __init__(
        self, source: str | os.PathLike[str], threads: int | None = None, intermediates: tuple[str, ...] = ()
    ) -> None:
        if intermediates:
            raise BadRecipe("Core ML returns no intermediate values; the runtime mlprogram does.")
        self.inputs: tuple[TensorSpec, ...] = ()
        self.outputs: tuple[TensorSpec, ...] = ()
        self._path = Path(source)
        self._threads = threads
        self._model: Any = None

    def __enter__(self) -> Runtime:
        try:
            self._model = coremltools.models.MLModel(str(self._path), compute_units=coremltools.ComputeUnit.ALL)
        except Exception as error:  # coremltools raises whatever its parts raise
            raise UnreadableArtifact(f"{self._path} cannot be opened by Core ML: {error}.") from error
        described = self._model.get_spec().description
        carried = described.metadata.userDefined.get(RECIPE, "")
        with contextlib.suppress(ValueError):  # a stranger's text under the same key
            carried = json.loads(carried)
        self.inputs, self.outputs = inputs(described, takes_pixels=takes_pixels(carried)), outputs(described)
        return self

    def run(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        """Returns all outputs by name; an image input takes ``(1, 3, height, width)`` uint8, as in other runtimes."""
        images = {spec.name for spec in self.inputs if spec.dtype == "uint8"}
        values = {name: _image(array) if name in images else array for name, array in feeds.items()}
        try:
            found = self._model.predict(values)
        except Exception as error:  # as above
            raise DeviceFailed(f"Core ML failed to run {self._path}: {error}.") from error
        return {name: np.asarray(value) for name, value in found.items() if not isinstance(value, (str, dict))}

    def describe(self) -> dict[str, Any]:
        """Returns the version of coremltools and the compute units that Core ML was allowed to use."""
        return {
            "library": "coremltools",
            "version": coremltools.__version__,
            "provider": self._model.compute_unit.name,
            "threads": "chosen by Core ML" + (f", {self._threads} ignored" if self._threads else ""),
        }

    def __exit__(self, *error: object) -> None:
        self._model = None


def _image(array: np.ndarray[Any, Any]) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(array[0].transpose(1, 2, 0)))
