# SPDX-License-Identifier: Apache-2.0
"""The ONNX model that the passes work on, and which of its values equal which module's output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import onnx_ir as ir
import torch
from onnx_ir.tensor_adapters import TorchTensor

MODULES = "vitedge.modules"
"""Key in ``Node.meta``: the innermost modules that the node belongs to."""


@dataclass
class Graph:
    """A model under construction."""

    model: ir.Model
    weights: frozenset[str]
    """Names of the reference's parameters and buffers."""
    blocks: dict[str, ir.Value] = field(default_factory=dict)
    """Module name of the reference to the value that equals its output."""
    notes: list[str] = field(default_factory=list)

    def replace(self, old: ir.Value, new: ir.Value) -> None:
        """Puts a value in place of another for all consumers, blocks and outputs."""
        if old.is_graph_output():
            new.name, old.name = old.name, f"{old.name}.replaced"
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        for name, value in self.blocks.items():
            if value is old:
                self.blocks[name] = new

    def is_kept(self, value: ir.Value) -> bool:
        """Returns whether the value has to stay: it is an output of the model or of a block."""
        return value.is_graph_output() or any(value is block for block in self.blocks.values())

    def is_private(self, value: ir.Value) -> bool:
        """Returns whether the value has one consumer and does not have to stay."""
        return len(value.uses()) == 1 and not self.is_kept(value)

    def emit(
        self, before: ir.Node, op_type: str, inputs: Sequence[ir.Value], attributes: Mapping[str, Any], like: ir.Value
    ) -> ir.Value:
        """Inserts a node of the same modules before another; returns its output, of type and shape of ``like``."""
        node = ir.Node("", op_type, inputs, ir.convenience.convert_attributes(attributes))
        node.meta.update(before.meta)
        self.model.graph.insert_before(before, node)
        node.outputs[0].type, node.outputs[0].shape = like.type, like.shape
        return node.outputs[0]

    def add_constant(self, name: str, tensor: torch.Tensor) -> ir.Value:
        """Adds an initializer that shares the tensor's memory."""
        return self.add_initializer(name, TorchTensor(tensor, name=name))

    def add_initializer(self, name: str, tensor: ir.TensorProtocol) -> ir.Value:
        """Adds an initializer under the name, or under one derived from it where that is taken."""
        unique, count = name, 0
        while unique in self.model.graph.initializers:
            count += 1
            unique = f"{name}_{count}"
        value = ir.Value(name=unique, shape=cast("ir.Shape", tensor.shape), type=ir.TensorType(tensor.dtype))
        value.const_value = tensor
        self.model.graph.register_initializer(value)
        return value


def modules_of(node: ir.Node) -> tuple[str, ...]:
    """Returns the innermost modules that the node belongs to; the reference itself is the empty name."""
    return cast("tuple[str, ...]", node.meta.get(MODULES, ("",)))


def constant(value: ir.Value | None) -> torch.Tensor | None:
    """Returns the value as a tensor if it is a constant, else None; memory is shared where possible."""
    if value is None or value.const_value is None or not value.is_initializer():
        return None
    raw = value.const_value.raw if isinstance(value.const_value, ir.Tensor) else None
    if isinstance(raw, torch.Tensor):
        return raw.detach()
    array = value.const_value.numpy()
    return torch.from_numpy(array if array.flags.writeable else array.copy())
