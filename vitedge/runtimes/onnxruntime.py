# SPDX-License-Identifier: Apache-2.0
"""An ONNX file in ONNX Runtime, on the provider that was asked for and no other."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from vitedge.errors import BadRecipe, CheckFailed, DeviceFailed, MissingBackend, UnreadableArtifact
from vitedge.records import TensorSpec
from vitedge.runtimes.base import Arrays, check_names

CPU = "CPUExecutionProvider"

_DTYPES = {"float": "float32", "double": "float64"}
"""ONNX Runtime's names of element types where NumPy says something else."""


class Runtime:
    """One session. See `vitedge.runtimes.base.Runtime`."""

    _provider = CPU
    """The execution provider that computes all of the graph."""

    def __init__(
        self, source: str | os.PathLike[str], threads: int | None = None, intermediates: tuple[str, ...] = ()
    ) -> None:
        self.inputs: tuple[TensorSpec, ...] = ()
        self.outputs: tuple[TensorSpec, ...] = ()
        self._path = Path(source)
        self._threads = threads
        self._intermediates = intermediates
        self._added: tuple[str, ...] = ()
        self._session: Any = None

    def __enter__(self) -> Runtime:
        if not self._path.is_file():
            raise UnreadableArtifact(f"{self._path} is not there, or is not a file; an ONNX model is one file.")
        if self._provider not in ort.get_available_providers():
            raise MissingBackend(
                f"This ONNX Runtime {ort.__version__} has no {self._provider}; type: pip install onnxruntime-gpu"
            )
        options = self._options()
        model = self._with_intermediates() if self._intermediates else str(self._path)
        try:
            session = ort.InferenceSession(model, options, providers=[self._provider])
        except Exception as error:  # the library's errors have no common ancestor below Exception
            if self._provider != CPU and "fallback" in str(error):
                raise CheckFailed(
                    f"{self._provider} was asked for and does not compute all of {self._path.name}: "
                    f"{_first_line(error)}."
                ) from error
            raise UnreadableArtifact(f"{self._path} cannot be opened by ONNX Runtime: {_first_line(error)}.") from error
        session.disable_fallback()
        taken = session.get_providers()
        if taken[0] != self._provider:
            raise CheckFailed(
                f"ONNX Runtime was asked for {self._provider} and took {', '.join(taken)}: a library of the provider "
                "is missing or of another version; vitedge doctor tells which."
            )
        self._session = session
        self.inputs = tuple(_spec(value) for value in session.get_inputs())
        self.outputs = tuple(_spec(value) for value in session.get_outputs() if value.name not in self._added)
        return self

    def run(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        """Returns all outputs by name, the intermediates among them.

        Raises:
            BadRecipe: the feeds do not have the names of the inputs.
            DeviceFailed: ONNX Runtime refused or failed the run.
        """
        check_names(self._path, self.inputs, feeds)
        try:
            arrays = self._session.run(None, dict(feeds))
        except Exception as error:  # as above
            raise DeviceFailed(f"ONNX Runtime failed to run {self._path}: {_first_line(error)}.") from error
        return dict(zip((value.name for value in self._session.get_outputs()), arrays))

    def describe(self) -> dict[str, Any]:
        """Returns the version, the provider that really runs, and the session's own settings."""
        options = self._session.get_session_options()
        return {
            "library": "onnxruntime",
            "version": ort.__version__,
            "provider": ", ".join(self._session.get_providers()),
            "threads": options.intra_op_num_threads or "all physical cores",
            "spinning": "inside a run",
            "graph_optimization": options.graph_optimization_level.name,
        }

    def __exit__(self, *error: object) -> None:
        self._session = None

    def _options(self) -> Any:
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads or 0
        options.log_severity_level = 3  # its warnings would stand between the user and our sentence
        # Workers spin while a run goes on, as they do by default (without it two threads took twice as long), but not
        # after it: some processors burn a second of every core there, in the middle of someone else's measurement.
        options.add_session_config_entry("session.intra_op.allow_spinning", "1")
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if self._provider != CPU:  # or nodes that the provider does not have would run on the processor in silence
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        if self._intermediates:
            folder = str(self._path.resolve().parent)
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
        return options

    def _with_intermediates(self) -> bytes:
        """Returns the model with the intermediates as further outputs; weights in other files stay there."""
        import onnx  # noqa: PLC0415 - which no device needs: only layers are compared by it

        try:
            model = onnx.load(self._path, load_external_data=False)
        except Exception as error:  # protobuf's own, which it does not export under a stable name
            raise UnreadableArtifact(f"{self._path} is not an ONNX model, or is cut short.") from error
        values = {name for node in model.graph.node for name in node.output}
        unknown = [name for name in self._intermediates if name not in values]
        if unknown:
            raise BadRecipe(f"{self._path} has no value named {', '.join(unknown)}.")
        present = {value.name for value in model.graph.output}
        self._added = tuple(dict.fromkeys(name for name in self._intermediates if name not in present))
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in self._added)
        return model.SerializeToString()  # type: ignore[no-any-return]


def _spec(value: Any) -> TensorSpec:
    kind = value.type.replace("tensor(", "").rstrip(")")
    dtype = _DTYPES.get(kind, kind)
    return TensorSpec(value.name, tuple("?" if side is None else side for side in value.shape), dtype)


def _first_line(error: Exception) -> str:
    """Returns the library's message without its status prefix, its source locations and its further lines."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].split(" : ", 3)[-1].rstrip(". ")
