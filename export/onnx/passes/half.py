# SPDX-License-Identifier: Apache-2.0
"""Half precision as a typed graph: weights in float16, a Cast wherever a value changes its type.

Inputs and outputs keep their types. The operators between an input and the first operator with weights (the
normalization of a ``uint8`` image) stay in float32, as do the modules that are named and every operator with a weight
that float16 cannot hold.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_ir as ir
import torch
from onnx_ir.tensor_adapters import TorchTensor

from vitedge.export.onnx.passes.graph import Graph, attributes_of, constant, modules_of
from vitedge.export.onnx.passes.integers import PRODUCTS, producer_of
from vitedge.program.float16 import FLOAT16_MAX, SMALLEST_NORMAL

_FLOAT, _HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16
_PREAMBLE = ("Cast", "Add", "Sub", "Mul", "Div", "Transpose", "Reshape", "Gather", "Slice", "Concat")


def to_half(graph: Graph, float32_modules: tuple[str, ...], float32_operators: tuple[str, ...] = ()) -> None:
    """Converts every float32 value to float16, except inputs, outputs and the nodes that have to stay in float32.

    Args:
        graph: every float value of it has a type.
        float32_modules: innermost module names whose nodes stay in float32. A module's submodules are not included.
        float32_operators: kinds of nodes that stay in float32 wherever they are.
    """
    _give_types(graph)
    wanted = {}
    preamble = _preamble(graph)
    for node in graph.model.graph:
        large = _has_large_weight(node)
        if large:
            graph.notes.append(f"{modules_of(node)[0]} stays in float32: a weight of it exceeds float16")
        named = node.op_type in float32_operators or set(modules_of(node)) & set(float32_modules)
        in_float32 = large or id(node) in preamble or _has_small_scale(node) or named
        wanted[id(node)] = _FLOAT if in_float32 else _HALF
    _align_operands(graph, wanted)
    typing = _Typing(graph, wanted)
    for node in list(graph.model.graph):
        typing.convert(node)
    typing.restore_outputs()


def _align_operands(graph: Graph, wanted: dict[int, ir.DataType]) -> None:
    """Gives a product and the operators that dequantize its operands one type: float32 where one of them needs it.

    A Cast between them would keep a compiler from multiplying the integers. What dequantizes for other products too is
    written once more.
    """
    for node in [node for node in graph.model.graph if node.op_type in PRODUCTS]:
        operands = {index: producer_of(node.inputs[index], "DequantizeLinear") for index in (0, 1)}
        found = {index: operand for index, operand in operands.items() if operand is not None}
        if not found or _FLOAT not in (wanted[id(one)] for one in (node, *found.values())):
            continue
        wanted[id(node)] = _FLOAT
        for index, operand in found.items():
            if wanted[id(operand)] == _FLOAT or len(operand.outputs[0].uses()) == 1:
                wanted[id(operand)] = _FLOAT
                continue
            inputs = [value for value in operand.inputs if value is not None]
            own = graph.emit(operand, "DequantizeLinear", inputs, attributes_of(operand), like=operand.outputs[0])
            wanted[id(own.producer())] = _FLOAT
            node.replace_input_with(index, own)


@dataclass
class _Typing:
    """A conversion in progress: the float type that each node computes in, and the casts made so far."""

    graph: Graph
    wanted: dict[int, ir.DataType]
    casts: dict[tuple[int, ir.DataType], ir.Value] = field(default_factory=dict)

    def convert(self, node: ir.Node) -> None:
        """Gives the node inputs of the type that it computes in, and its outputs that type."""
        wanted = self.wanted[id(node)]
        if node.op_type != "Cast":
            for index, value in enumerate(node.inputs):
                if value is not None and value.dtype in (_FLOAT, _HALF) and value.dtype != wanted:
                    node.replace_input_with(index, self.as_type(value, wanted))
        elif node.attributes["to"].as_int() == int(_FLOAT):
            node.attributes["to"] = ir.AttrInt64("to", int(wanted))
        for value in node.outputs:
            if value.dtype == _FLOAT:
                value.type = ir.TensorType(wanted)

    def as_type(self, value: ir.Value, wanted: ir.DataType) -> ir.Value:
        """Returns the value in another type: a constant converted when the file is written, or one shared Cast."""
        key = (id(value), wanted)
        if key not in self.casts:
            tensor = constant(value)
            self.casts[key] = self._cast(value, wanted) if tensor is None else self._constant(value, tensor)
        return self.casts[key]

    def restore_outputs(self) -> None:
        """Casts every float16 output back, under its own name."""
        model = self.graph.model.graph
        for position, output in enumerate(list(model.outputs)):
            if output.dtype == _HALF:
                result = self._cast(output, _FLOAT)
                result.name, output.name = output.name, f"{output.name}.float16"
                model.outputs[position] = result

    def _cast(self, value: ir.Value, wanted: ir.DataType) -> ir.Value:
        node = ir.Node("", "Cast", [value], [ir.AttrInt64("to", int(wanted))])
        producer = value.producer()
        if producer is None:
            self.graph.model.graph.insert_before(self.graph.model.graph[0], node)
        else:
            node.meta.update(producer.meta)
            self.graph.model.graph.insert_after(producer, node)
        node.outputs[0].shape, node.outputs[0].type = value.shape, ir.TensorType(wanted)
        return node.outputs[0]

    def _constant(self, value: ir.Value, tensor: torch.Tensor) -> ir.Value:
        name = str(value.name)
        lazy = ir.LazyTensor(lambda: TorchTensor(tensor.half()), dtype=_HALF, shape=ir.Shape(tensor.shape), name=name)
        if any(self.wanted.get(id(reader)) == _FLOAT for reader, _ in value.uses()):
            return self.graph.add_initializer(f"{name}.float16", lazy)
        value.const_value, value.type = lazy, ir.TensorType(_HALF)
        return value


def _give_types(graph: Graph) -> None:
    """Sets missing types: an output without a type is float where the operator has a float input.

    Operators that return something else than floats (comparisons, Cast) have a type; Shape has none and is left out.
    """
    for node in graph.model.graph:
        floating = any(value is not None and value.dtype == _FLOAT for value in node.inputs)
        for value in node.outputs:
            if value.dtype is None and floating and node.op_type != "Shape":
                value.type = ir.TensorType(_FLOAT)


def _preamble(graph: Graph) -> set[int]:
    """Returns the nodes between an input and the first operator with weights, by identity."""
    reached = {id(value) for value in graph.model.graph.inputs}
    nodes = set()
    for node in graph.model.graph:
        data = [value for value in node.inputs if value is not None and constant(value) is None]
        if node.op_type in _PREAMBLE and data and all(id(value) in reached for value in data):
            reached.update(id(value) for value in node.outputs)
            nodes.add(id(node))
    return nodes


def _has_small_scale(node: ir.Node) -> bool:
    """Returns whether a scale lies below the normal numbers of float16, where it has few digits or is flushed."""
    scales = constant(node.inputs[1]) if node.op_type in ("QuantizeLinear", "DequantizeLinear") else None
    return scales is not None and float(scales.min()) < SMALLEST_NORMAL


def _has_large_weight(node: ir.Node) -> bool:
    weights = [constant(value) for value in node.inputs]
    return any(
        weight is not None
        and weight.is_floating_point()
        and weight.numel() > 0
        and float(weight.abs().max()) > FLOAT16_MAX
        for weight in weights
    )
