# SPDX-License-Identifier: Apache-2.0
"""An ONNX file or an OpenVINO model (``.xml`` beside its ``.bin``) in OpenVINO, on the processor and in float32."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov

from vitedge.errors import BadRecipe, DeviceFailed, UnreadableArtifact
from vitedge.records import TensorSpec
from vitedge.runtimes.base import Arrays, check_names

_DEVICE = "CPU"
_SETTINGS = {
    "PERFORMANCE_HINT": "LATENCY",
    "NUM_STREAMS": "1",
    "INFERENCE_PRECISION_HINT": "f32",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
}
"""One inference at a time, which has all threads. What is not quantized stays float32: by itself OpenVINO computes in
bfloat16 where the processor can, and rounds what integer weights are multiplied with to integers."""


class Runtime:
    """One compiled model. See `vitedge.runtimes.base.Runtime`."""

    def __init__(
        self, source: str | os.PathLike[str], threads: int | None = None, intermediates: tuple[str, ...] = ()
    ) -> None:
        self.inputs: tuple[TensorSpec, ...] = ()
        self.outputs: tuple[TensorSpec, ...] = ()
        self._path = Path(source)
        self._threads = threads
        self._intermediates = intermediates
        self._names: tuple[str, ...] = ()
        self._request: Any = None

    def __enter__(self) -> Runtime:
        if not self._path.is_file():
            raise UnreadableArtifact(f"{self._path} is not there, or is not a file; OpenVINO takes .onnx or .xml.")
        core = ov.Core()
        model = self._read(core)
        declared = tuple(_spec(port) for port in model.outputs)
        self._add(model, {spec.name for spec in declared})
        settings = {**_SETTINGS, **({"INFERENCE_NUM_THREADS": str(self._threads)} if self._threads else {})}
        try:
            compiled = core.compile_model(model, _DEVICE, settings)
        except Exception as error:  # the library's errors are RuntimeError and whatever its parts raise
            raise UnreadableArtifact(f"{self._path} cannot be compiled by OpenVINO: {_reason(error)}.") from error
        self.inputs, self.outputs = tuple(_spec(port) for port in model.inputs), declared
        self._names = tuple(spec.name for spec in declared) + self._names
        self._request = compiled.create_infer_request()
        return self

    def run(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        """Returns all outputs by name, the intermediates among them.

        Raises:
            BadRecipe: the feeds do not have the names of the inputs.
            DeviceFailed: OpenVINO refused or failed the run.
        """
        check_names(self._path, self.inputs, feeds)
        try:
            found = self._request.infer(dict(feeds), share_inputs=True, share_outputs=False)
        except Exception as error:  # as above
            raise DeviceFailed(f"OpenVINO failed to run {self._path}: {_reason(error)}.") from error
        return {name: found[index] for index, name in enumerate(self._names)}

    def describe(self) -> dict[str, Any]:
        """Returns the version, the processor, and the settings that OpenVINO reports."""
        compiled = self._request.get_compiled_model()
        taken = {name: compiled.get_property(name) for name in (*_SETTINGS, "INFERENCE_NUM_THREADS")}
        return {
            "library": "openvino",
            "version": ov.get_version(),
            "provider": _DEVICE,
            "threads": taken["INFERENCE_NUM_THREADS"],
            "streams": taken["NUM_STREAMS"],
            "performance_hint": str(taken["PERFORMANCE_HINT"]).rpartition(".")[2],
            "precision": taken["INFERENCE_PRECISION_HINT"].get_type_name(),
        }

    def __exit__(self, *error: object) -> None:
        self._request = None

    def _read(self, core: Any) -> Any:
        try:
            return core.read_model(self._path)
        except Exception as error:  # as above
            raise UnreadableArtifact(f"{self._path} cannot be opened by OpenVINO: {_reason(error)}.") from error

    def _add(self, model: Any, present: set[str]) -> None:
        """Makes the intermediates further outputs of the model in memory."""
        values = {name for node in model.get_ops() for port in node.outputs() for name in port.get_names()}
        unknown = [name for name in self._intermediates if name not in values]
        if unknown:
            raise BadRecipe(f"{self._path} has no value named {', '.join(unknown)}.")
        self._names = tuple(dict.fromkeys(name for name in self._intermediates if name not in present))
        if self._names:
            model.add_outputs(list(self._names))


def _spec(port: Any) -> TensorSpec:
    shape = tuple(side.get_length() if side.is_static else "?" for side in port.get_partial_shape())
    return TensorSpec(port.get_any_name(), shape, np.dtype(port.get_element_type().to_dtype()).name)


def _reason(error: Exception) -> str:
    """Returns the last line of the library's message; the lines before it are places in its sources."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[-1].rstrip(".")
