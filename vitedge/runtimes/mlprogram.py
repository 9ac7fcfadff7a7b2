# SPDX-License-Identifier: Apache-2.0
"""A Core ML package computed op by op on PyTorch, on any machine: the meaning of the program, not a device's result."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitedge.errors import BadRecipe
from vitedge.mlprogram.description import inputs, is_bgr, outputs
from vitedge.mlprogram.interpreter import MLProgramInterpreter, input_tensor
from vitedge.mlprogram.package import read_package
from vitedge.mlprogram.program import read_program
from vitedge.records import TensorSpec
from vitedge.runtimes.base import Arrays, check_names

_CAVEATS = {
    "declared": "computed op by op as the program declares it: its meaning, not a bit model of the Neural Engine",
    "fp32": "computed op by op in float32: the conversion without the rounding of half precision",
}


class Runtime:
    """One loaded program, in the arithmetic that it declares. See `vitedge.runtimes.base.Runtime`."""

    _compute = "declared"
    """One of `vitedge.mlprogram.COMPUTE`."""

    def __init__(
        self, source: str | os.PathLike[str], threads: int | None = None, intermediates: tuple[str, ...] = ()
    ) -> None:
        self.inputs: tuple[TensorSpec, ...] = ()
        self.outputs: tuple[TensorSpec, ...] = ()
        self._path = Path(source)
        self._threads = threads
        self._threads_before = torch.get_num_threads()
        self._intermediates = intermediates
        self._bgr: frozenset[str] = frozenset()
        self._interpreter: Any = None

    def __enter__(self) -> Runtime:
        package = read_package(self._path)
        program = read_program(package)
        known = {output.name for operation in program.operations for output in operation.outputs}
        unknown = [name for name in self._intermediates if name not in known]
        if unknown:
            raise BadRecipe(f"{self._path} has no value named {', '.join(unknown)}.")
        self._interpreter = MLProgramInterpreter(program, self._compute)
        self.inputs, self.outputs = inputs(package), outputs(package)
        self._bgr = is_bgr(package)
        self._threads_before = torch.get_num_threads()
        if self._threads is not None:
            torch.set_num_threads(self._threads)
        return self

    def run(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        """Returns all tensor outputs and the intermediates; an image input takes ``(1, 3, height, width)`` RGB.

        Raises:
            BadRecipe: the feeds do not have the names of the inputs.
            UnreadableArtifact: the program does not compute what it declares.
        """
        check_names(self._path, self.inputs, feeds)
        with torch.inference_mode():
            tensors = {name: input_tensor(array, bgr=name in self._bgr) for name, array in feeds.items()}
            found = self._interpreter.run(tensors, self._intermediates)
        return {name: value.float().numpy() for name, value in found.items() if isinstance(value, Tensor)}

    def describe(self) -> dict[str, Any]:
        """Returns PyTorch's version and threads, and the mode of arithmetic."""
        return {
            "library": "torch",
            "version": torch.__version__,
            "provider": "cpu",
            "threads": torch.get_num_threads(),
            "compute": self._compute,
            "caveat": _CAVEATS[self._compute],
        }

    def __exit__(self, *error: object) -> None:
        self._interpreter = None
        torch.set_num_threads(self._threads_before)
