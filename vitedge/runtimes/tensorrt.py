# SPDX-License-Identifier: Apache-2.0
"""An engine in TensorRT 8.5 and newer, or in TensorRT for RTX, on the GPU of this machine.

The head of the file says which of the two wrote it; both have one API. Inputs and outputs go by name, which is there
since 8.5. A run copies the inputs to the device, computes, and copies the outputs back.

An engine that was built version-compatible holds machine code for the processor, which TensorRT loads only where
``engine_host_code_allowed`` is set: it is not set here, because a file from somebody else could run anything.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from vitedge import registry
from vitedge.errors import BadRecipe, DeviceFailed, MissingBackend, UnreadableArtifact, VitedgeError
from vitedge.records import TensorSpec
from vitedge.runtimes.base import Arrays, check_names
from vitedge.runtimes.cuda import Gpu, Stream, gpu
from vitedge.runtimes.plan import LIBRARIES, Plan, read_plan
from vitedge.runtimes.tensorrt_log import logger, reason

_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}
"""TensorRT's names of element types to NumPy's. Its own ``nptype`` is not used: that of 8.5 and 8.6 reads ``np.bool``,
which NumPy 1.24 does not have."""


class Runtime:
    """One engine with one execution context. See `vitedge.runtimes.base.Runtime`."""

    def __init__(
        self, source: str | os.PathLike[str], threads: int | None = None, intermediates: tuple[str, ...] = ()
    ) -> None:
        if intermediates:
            raise BadRecipe(
                f"An engine returns no intermediate values, and so not {', '.join(intermediates)}: its kernels are "
                "fused; compare the layers of its ONNX file."
            )
        self.inputs: tuple[TensorSpec, ...] = ()
        self.outputs: tuple[TensorSpec, ...] = ()
        self._path = Path(source)
        self._threads = threads
        self._messages: list[tuple[str, str]] = []
        self._open = ExitStack()
        self._stream = Stream()
        self._gpu = Gpu("", "", "")
        self._trt: Any = None
        self._engine: Any = None
        self._context: Any = None

    def __enter__(self) -> Runtime:
        plan = read_plan(self._path)
        self._gpu = gpu()  # where there is none, installing the package would not help
        self._trt = registry.imported(LIBRARIES[plan.library])
        with ExitStack() as stack:
            self._stream = stack.enter_context(Stream())
            stack.callback(self._release)
            self._load(plan)
            self._open = stack.pop_all()
        return self

    def run(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        """Returns all outputs by name.

        Raises:
            BadRecipe: the feeds do not have the names, the element types or the shapes that the engine takes.
            UnreadableArtifact: the shape of an output is known only when it was computed.
            DeviceFailed: TensorRT or the GPU failed the run.
        """
        check_names(self._path, self.inputs, feeds)
        sources = [self._bind(spec, np.ascontiguousarray(feeds[spec.name])) for spec in self.inputs]
        outputs = {spec.name: np.empty(self._shape(spec.name), spec.dtype) for spec in self.outputs}
        for name, array in outputs.items():
            self._context.set_tensor_address(name, self._stream.memory(name, array.nbytes))
        self._messages.clear()
        if not self._context.execute_async_v3(self._stream.handle):
            raise DeviceFailed(f"TensorRT failed to run {self._path}: {reason(self._messages)}.")
        for name, array in outputs.items():
            self._stream.to_host(array, self._stream.memory(name, array.nbytes))
        self._stream.synchronize()
        del sources  # the copies to the device read them until here
        return outputs

    def describe(self) -> dict[str, Any]:
        """Returns the package and its version, the GPU, its compute capability and its driver's CUDA."""
        return {
            "library": self._trt.__name__,
            "version": self._trt.__version__,
            "provider": self._gpu.name,
            "compute_capability": self._gpu.capability,
            "cuda": self._gpu.cuda,
            "threads": "chosen by the GPU" + (f", {self._threads} ignored" if self._threads else ""),
        }

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def _keep(self, severity: str, text: str) -> None:
        self._messages.append((severity, text))

    def _release(self) -> None:
        self._context = self._engine = None  # in this order, and before the stream: each uses the next

    def _load(self, plan: Plan) -> None:
        if not hasattr(self._trt.ICudaEngine, "num_io_tensors"):
            raise MissingBackend(f"{self._title()} is too old, 8.5 is the first that vitedge runs engines in.")
        self._messages.clear()
        try:
            library = self._trt.Runtime(logger(self._trt, self._keep))
            self._engine = library.deserialize_cuda_engine(self._path.read_bytes())
        except TypeError as error:  # pybind11's answer to a null pointer: the library could not use the GPU
            raise DeviceFailed(f"{self._title()} cannot be started here: {reason(self._messages)}.") from error
        if self._engine is None:
            raise self._refusal(plan)
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise DeviceFailed(f"The GPU has no room for {self._path}: {reason(self._messages)}.")
        # Detailed verbosity, with which engines are built, makes enqueueing slower (Python API, IExecutionContext).
        self._context.nvtx_verbosity = self._trt.ProfilingVerbosity.NONE
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        taken = {name for name in names if self._engine.get_tensor_mode(name).name == "INPUT"}
        self.inputs = tuple(self._spec(name) for name in names if name in taken)
        self.outputs = tuple(self._spec(name) for name in names if name not in taken)

    def _refusal(self, plan: Plan) -> VitedgeError:
        """Returns the error for an engine that the library does not load."""
        why = reason(self._messages)
        again = "build it again on this machine with: vitedge export --format tensorrt"
        if plan.version and not plan.version.startswith(self._trt.__version__):
            return MissingBackend(
                f"{self._path} was built by TensorRT {plan.version}, and {self._title()} does not load it ({why}); "
                f"install that version, or {again}"
            )
        return UnreadableArtifact(
            f"{self._path} is not loaded by {self._title()} on this {self._gpu.name} "
            f"({self._gpu.capability}): {why}; {again}"
        )

    def _title(self) -> str:
        names = {part.module: part.title for part in LIBRARIES.values()}
        return f"{names[self._trt.__name__]} {self._trt.__version__}"

    def _spec(self, name: str) -> TensorSpec:
        dtype = self._engine.get_tensor_dtype(name).name
        if dtype not in _DTYPES or self._engine.get_tensor_location(name).name != "DEVICE":
            raise UnreadableArtifact(
                f"{self._path} has an input or output that vitedge cannot bind: {name}, of type {dtype}; it binds "
                f"{', '.join(_DTYPES)} in the memory of the GPU."
            )
        shape = tuple("?" if side < 0 else side for side in self._engine.get_tensor_shape(name))
        return TensorSpec(name, shape, _DTYPES[dtype])

    def _bind(self, spec: TensorSpec, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Starts copying an input to the device, and gives the context its shape and address."""
        fits = len(array.shape) == len(spec.shape) and all(
            wanted in ("?", side) for wanted, side in zip(spec.shape, array.shape)
        )
        if array.dtype != spec.dtype or not fits or not self._context.set_input_shape(spec.name, array.shape):
            raise BadRecipe(
                f"{self._path} takes {spec.name} as {spec.dtype} {self._range(spec)}, not as {array.dtype} "
                f"{_written(array.shape)}."
            )
        address = self._stream.memory(spec.name, array.nbytes)
        self._stream.to_device(address, array)
        self._context.set_tensor_address(spec.name, address)
        return array

    def _range(self, spec: TensorSpec) -> str:
        """Returns the shapes that an input may have: one, or the smallest and the largest of the profile."""
        if "?" not in spec.shape:
            return _written(spec.shape)
        smallest, _, largest = self._engine.get_tensor_profile_shape(spec.name, 0)
        return f"{_written(smallest)} to {_written(largest)}"

    def _shape(self, name: str) -> tuple[int, ...]:
        shape = tuple(self._context.get_tensor_shape(name))
        if min(shape, default=0) < 0:
            raise UnreadableArtifact(
                f"The shape of {name} of {self._path} depends on the values of its input; vitedge runs engines whose "
                "shapes follow from the batch."
            )
        return shape


def _written(shape: Any) -> str:
    return "x".join(str(side) for side in shape) or "a scalar"
