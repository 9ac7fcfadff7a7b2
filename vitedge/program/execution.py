# SPDX-License-Identifier: Apache-2.0
"""Running an exported program node by node, watching some of them.

A quantizer that only a dequantizer reads is computed with it, in four passes over one buffer in place of eight over
eight: bit for bit what the two operators compute, in a tenth of the time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx import Interpreter, Node, map_arg

from vitedge.program.program import Program
from vitedge.program.qdq import DEQUANTIZE, QUANTIZE

Watch = Callable[[Tensor], Tensor | None]
"""Is called with the value of a node, and may return another one in its place."""


class Execution(Interpreter):
    """An interpreter of one program; it can be run any number of times, and frees values once they were read."""

    def __init__(self, exported: ExportedProgram, watches: Mapping[str, Watch] | None = None) -> None:
        """Watches are called by the name of the node that they watch."""
        super().__init__(exported.graph_module)
        self._watches = watches or {}
        self._fused = frozenset(
            node for node in exported.graph.nodes if is_fusible(node) and node.args[0].name not in self._watches
        )
        self._tensors = [
            None
            if spec.kind is InputKind.USER_INPUT
            else exported.state_dict.get(str(spec.target), exported.constants.get(str(spec.target)))
            for spec in exported.graph_signature.input_specs
        ]

    @torch.no_grad()
    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """Computes the outputs for a batch of inputs."""
        given = channels_last(images)
        outputs: tuple[Tensor, ...] = self.run(*(given if tensor is None else tensor for tensor in self._tensors))
        return outputs

    def run_node(self, n: Node) -> Any:
        """Runs one node, and then its watch."""
        value = super().run_node(n) if n.op != "call_function" else self.compute(n, self.env)
        watch = self._watches.get(n.name)
        if watch is None:
            return value
        instead = watch(value)
        return value if instead is None else instead

    def compute(self, node: Node, values: Mapping[Node, Any]) -> Any:
        """Computes the call of a function from the values of the nodes that it reads."""
        if node in self._fused:
            return rounded(values[node.args[0]], *node.args[1:5])  # type: ignore[index, arg-type]
        if len(node.users) == 1 and next(iter(node.users)) in self._fused:
            return values[node.args[0]]  # type: ignore[index]
        arguments, named = map_arg((node.args, node.kwargs), values.__getitem__)
        if node.target is torch.ops.aten.view.default:  # which refuses a value whose channels are last
            value, shape = arguments
            return torch.reshape(value, shape)  # type: ignore[arg-type]
        return node.target(*arguments, **named)  # type: ignore[operator]


def channels_last(images: Tensor) -> Tensor:
    """Returns images with their channels last in memory, in which convolutions take half the time."""
    return images.contiguous(memory_format=torch.channels_last) if images.dim() == 4 else images


def is_fusible(node: Node) -> bool:
    """Returns whether a node dequantizes with fixed parameters what a quantizer made for it alone of float32."""
    if node.target is not DEQUANTIZE:
        return False
    quantizer: Any = node.args[0]
    return (
        quantizer.target is QUANTIZE
        and len(quantizer.users) == 1
        and quantizer.args[1:] == node.args[1:]
        and getattr(quantizer.args[0].meta.get("val"), "dtype", None) is torch.float32
    )


def rounded(value: Tensor, scale: float, zero_point: int, low: int, high: int) -> Tensor:
    """Returns what quantizing and dequantizing make of a value: ``(clamp(round(x / s) + z, low, high) - z) s``.

    Args:
        value: float32.
        scale: ``s``.
        zero_point: ``z``.
        low: smallest integer.
        high: largest integer.
    """
    # The zero point is an integer, so that clamping before it is added gives the same, exactly.
    return (value * (1.0 / scale)).round_().clamp_(low - zero_point, high - zero_point).mul_(scale)


def arguments(program: Program, batch: Tensor) -> list[Any]:
    """Returns the program's inputs in the order of its signature: stored tensors and the batch."""
    exported = program.exported
    tensors = {**exported.constants, **exported.state_dict}
    return [batch if spec.target is None else tensors[spec.target] for spec in exported.graph_signature.input_specs]
