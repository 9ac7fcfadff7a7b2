# SPDX-License-Identifier: Apache-2.0
"""The ONNX model that the passes work on, and which of its values equal which module's output."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import update_wrapper
from typing import Any, cast

import onnx_ir as ir
import torch
from onnx_ir.passes.common import RemoveUnusedNodesPass
from onnx_ir.tensor_adapters import TorchTensor

MODULES = "vitedge.modules"
"""Key in ``Node.meta``: the innermost modules that the node belongs to."""
_GRAPH = "vitedge.graph"
"""Key in ``Model.meta``: the `Graph` that the model is part of while passes run."""


@dataclass
class Graph:
    """A model under construction."""

    model: ir.Model
    weights: frozenset[str]
    """Names of the reference's parameters and buffers."""
    blocks: dict[str, ir.Value] = field(default_factory=dict)
    """Module name of the reference to the value that equals its output."""
    notes: list[str] = field(default_factory=list)
    altered: bool = False
    """Whether anything was replaced or added since this was last set to false."""

    def run(self, passes: Sequence[ir.passes.PassBase]) -> None:
        """Runs passes in order, those of onnx-ir and those of this package.

        To a pass of onnx-ir the value of a block is one more output: it stays, or another takes its place. What a pass
        raises is raised as it is.
        """
        outputs = self.model.graph.outputs
        names = [value.name for value in outputs]
        self.model.meta[_GRAPH] = self
        self._add_blocks()
        try:
            ir.passes.Sequential(*passes)(self.model)
        except ir.passes.PassError as error:
            raised = _raised(error)
            raise raised from raised.__cause__
        self._remove_blocks()
        for value, name in zip(outputs, names, strict=True):
            value.name = name  # where a block's value is a copy of an output, onnx-ir names the output after it

    def rewrite(self, function: Callable[[Graph], None]) -> bool:
        """Calls a function that alters the graph, from a pass: it finds the blocks apart from the outputs.

        Returns:
            Whether it altered anything.
        """
        self._remove_blocks()
        self.altered = False
        function(self)
        self._add_blocks()
        return self.altered

    def _add_blocks(self) -> None:
        self.model.graph.outputs.extend(self.blocks.values())

    def _remove_blocks(self) -> None:
        outputs = self.model.graph.outputs
        # Taken off one by one, as only that tells a value that it is no output any more.
        values = [outputs.pop() for _ in self.blocks]
        self.blocks = dict(zip(self.blocks, reversed(values), strict=True))

    def replace(self, old: ir.Value, new: ir.Value) -> None:
        """Puts a value in place of another for all consumers, blocks and outputs."""
        self.altered = True
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
        self.altered = True
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
        self.altered = True
        unique, count = name, 0
        while unique in self.model.graph.initializers:
            count += 1
            unique = f"{name}_{count}"
        value = ir.Value(name=unique, shape=cast("ir.Shape", tensor.shape), type=ir.TensorType(tensor.dtype))
        value.const_value = tensor
        self.model.graph.register_initializer(value)
        return value


class GraphPass(ir.passes.InPlacePass):
    """A function that alters a `Graph`, as a pass of onnx-ir; `Graph.run` runs it.

    What no output and no block depends on afterwards is removed.
    """

    def __init__(self, function: Callable[[Graph], None]) -> None:
        self._function = function
        update_wrapper(self, function)

    def __repr__(self) -> str:
        return self._function.__name__

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Calls the function with the graph that the model is part of."""
        graph: Graph = model.meta[_GRAPH]
        altered = graph.rewrite(self._function)
        if altered:
            RemoveUnusedNodesPass()(model)
        return ir.passes.PassResult(model, altered)


def _raised(error: BaseException) -> BaseException:
    """Returns what a pass raised, of which onnx-ir makes a `PassError` for every list of passes that the pass is in."""
    while isinstance(error, ir.passes.PassError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def modules_of(node: ir.Node) -> tuple[str, ...]:
    """Returns the innermost modules that the node belongs to; the reference itself is the empty name."""
    return cast("tuple[str, ...]", node.meta.get(MODULES, ("",)))


def input_of(node: ir.Node, index: int = 0) -> ir.Value:
    """Returns an input of the node.

    Raises:
        ValueError: the node has no such input.
    """
    value = node.inputs[index]
    if value is None:
        raise ValueError(f"{node.op_type} lacks input {index}")
    return value


def attributes_of(node: ir.Node) -> dict[str, Any]:
    """Returns the node's attributes as `Graph.emit` takes them."""
    return {name: attribute.value for name, attribute in node.attributes.items()}


def constant(value: ir.Value | None) -> torch.Tensor | None:
    """Returns the value as a tensor if it is a constant, else None; memory is shared where possible."""
    if value is None or value.const_value is None or not value.is_initializer():
        return None
    raw = value.const_value.raw if isinstance(value.const_value, ir.Tensor) else None
    if isinstance(raw, torch.Tensor):
        return raw.detach()
    array = value.const_value.numpy()
    return torch.from_numpy(array if array.flags.writeable else array.copy())
