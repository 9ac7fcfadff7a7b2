# SPDX-License-Identifier: Apache-2.0
"""The reference module itself, in inference mode."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vitedge.errors import BadRecipe
from vitedge.records import TensorSpec
from vitedge.runtimes.base import Arrays

OUTPUT_NAMES = {1: ("logits",), 2: ("tokens", "pooled")}
"""Number of tensors that a forward returns, to their names in an exported program."""


class Runtime:
    """Calls a module with its inputs in the order of the feeds. See `vitedge.runtimes.base.Runtime`."""

    def __init__(self, source: nn.Module, threads: int | None = None, intermediates: tuple[str, ...] = ()) -> None:
        self.inputs: tuple[TensorSpec, ...] = ()
        self.outputs: tuple[TensorSpec, ...] = ()
        self._module = source
        self._threads = threads
        self._intermediates = intermediates
        self._threads_before = torch.get_num_threads()
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []
        self._seen: Arrays = {}

    def __enter__(self) -> Runtime:
        modules = dict(self._module.named_modules())
        unknown = [name for name in self._intermediates if name not in modules]
        if unknown:
            raise BadRecipe(f"The reference has no module named {', '.join(unknown)}.")
        self._threads_before = torch.get_num_threads()
        if self._threads is not None:
            torch.set_num_threads(self._threads)
        self._module.eval()
        self._hooks = [modules[name].register_forward_hook(self._keep(name)) for name in self._intermediates]
        return self

    def run(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        """Returns outputs as ``logits`` or ``tokens`` and ``pooled``, then the intermediates under their own names."""
        with torch.inference_mode():
            # A copy: a module may work in place, and an array may be read-only.
            result = self._module(*(torch.from_numpy(np.array(array)) for array in feeds.values()))
        tensors = (result,) if isinstance(result, Tensor) else tuple(result)
        names = OUTPUT_NAMES.get(len(tensors)) or tuple(f"output_{index}" for index in range(len(tensors)))
        arrays = {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}
        arrays.update(self._seen)
        self._seen = {}
        return arrays

    def describe(self) -> dict[str, Any]:
        """Returns PyTorch's version and threads; eager mode runs on the processor."""
        return {"library": "torch", "version": torch.__version__, "provider": "cpu", "threads": torch.get_num_threads()}

    def __exit__(self, *error: object) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        torch.set_num_threads(self._threads_before)

    def _keep(self, name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            self._seen[name] = output.detach().numpy().copy()  # a later module may work on it in place

        return hook
