# SPDX-License-Identifier: Apache-2.0
"""Running an exported program node by node, watching some of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx import Interpreter, Node

from vitedge.program.program import Program

Watch = Callable[[Tensor], Tensor | None]
"""Is called with the value of a node, and may return another one in its place."""


class Execution(Interpreter):
    """An interpreter of one program; it can be run any number of times, and frees values once they were read."""

    def __init__(self, exported: ExportedProgram, watches: Mapping[str, Watch] | None = None) -> None:
        """Watches are called by the name of the node that they watch."""
        super().__init__(exported.graph_module)
        self._watches = watches or {}
        self._tensors = [
            None
            if spec.kind is InputKind.USER_INPUT
            else exported.state_dict.get(str(spec.target), exported.constants.get(str(spec.target)))
            for spec in exported.graph_signature.input_specs
        ]

    @torch.no_grad()
    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """Computes the outputs for a batch of inputs."""
        outputs: tuple[Tensor, ...] = self.run(*(images if tensor is None else tensor for tensor in self._tensors))
        return outputs

    def run_node(self, n: Node) -> Any:
        """Runs one node, and then its watch."""
        value = super().run_node(n)
        watch = self._watches.get(n.name)
        if watch is None:
            return value
        instead = watch(value)
        return value if instead is None else instead


def arguments(program: Program, batch: Tensor) -> list[Any]:
    """Returns the program's inputs in the order of its signature: stored tensors and the batch."""
    exported = program.exported
    tensors = {**exported.constants, **exported.state_dict}
    return [batch if spec.target is None else tensors[spec.target] for spec in exported.graph_signature.input_specs]
