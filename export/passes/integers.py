# SPDX-License-Identifier: Apache-2.0
"""Linears over integers: how they come from the program, and the form in which ONNX Runtime computes them as integers.

ONNX Runtime turns ``Gemm(DequantizeLinear, DequantizeLinear, DequantizeLinear)`` into one product of integers with a
result in float (QGemm). ``MatMul`` and ``Add`` over the same operands it joins into a float Gemm, whose weights it
dequantizes at every run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from vitedge.export.passes.graph import MODULES, Graph, constant
from vitedge.export.passes.movement import dims, reshape


@dataclass(frozen=True)
class IntegerLayer:
    """``Add(MatMul(dequantized input, dequantized weight), dequantized bias)``."""

    product: ir.Node
    addition: ir.Node
    input: ir.Node
    """Dequantizes the input, ``(…, in)``."""
    weight: ir.Node
    """Dequantizes the weight, ``(in, out)``, along axis 1."""
    bias: ir.Node
    """Dequantizes the bias, int32 ``(out,)``."""

    @property
    def integers(self) -> ir.Value:
        """What the layer reads, as integers."""
        return _input(self.input, 0)

    @property
    def output(self) -> ir.Value:
        """What the layer computes, ``(…, out)``."""
        return self.addition.outputs[0]

    def again(self, graph: Graph, before: ir.Node, integers: ir.Value, columns: slice | None = None) -> ir.Value:
        """The same layer over other integers, or a range of its output's channels.

        Args:
            graph: gets the new nodes.
            before: where they go.
            integers: ``(…, in)``.
            columns: the channels; None is all.
        """
        weight, bias = self.weight.outputs[0], self.bias.outputs[0]
        if columns is not None:
            weight = _columns(graph, before, self.weight, columns)
            bias = _columns(graph, before, self.bias, columns)
        real = graph.emit(before, "DequantizeLinear", [integers, *grid_of(self.input)], {}, like=self.input.outputs[0])
        real.shape = integers.shape
        product = graph.emit(before, "MatMul", [real, weight], {}, like=self.output)
        result = graph.emit(before, "Add", [product, bias], {}, like=self.output)
        shape, matrix = dims(integers), dims(weight)
        result.shape = None if shape is None or matrix is None else ir.Shape([*shape[:-1], matrix[-1]])
        for value in (real, product, result):
            node = value.producer()
            if node is not None:
                node.meta[MODULES] = self.product.meta[MODULES]
        return result


def integer_layers(graph: Graph) -> Iterator[IntegerLayer]:
    """The Linears whose input, weight and bias are integers."""
    for node in list(graph.model.graph):
        layer = _integer_layer(graph, node) if node.op_type == "MatMul" else None
        if layer is not None:
            yield layer


def turn_weights(graph: Graph) -> None:
    """Stores the weight of a Linear as ``(in, out)``, as it is multiplied, so that nothing turns it at run time."""
    for node in list(graph.model.graph):
        weight = producer_of(node.inputs[0], "DequantizeLinear") if node.op_type == "Transpose" else None
        integers = None if weight is None else constant(weight.inputs[0])
        if weight is None or integers is None or integers.ndim != 2:
            continue
        stored = graph.add_constant(str(_input(weight, 0).name), integers.T)
        axis = 1 - weight.attributes["axis"].as_int()
        turned = graph.emit(
            node, "DequantizeLinear", [stored, *grid_of(weight)], {"axis": axis}, like=weight.outputs[0]
        )
        turned.shape = stored.shape
        graph.replace(node.outputs[0], turned)


def write_as_gemm(graph: Graph) -> None:
    """Gives every Linear over integers the form that ONNX Runtime computes as one product of integers."""
    for layer in integer_layers(graph):
        shape, node = dims(layer.integers), layer.addition
        if shape is None or shape[-1] is None:
            continue
        flat = reshape(graph, node, layer.integers, (None, shape[-1])) if len(shape) != 2 else layer.integers
        real = graph.emit(node, "DequantizeLinear", [flat, *grid_of(layer.input)], {}, like=layer.input.outputs[0])
        real.shape = flat.shape
        weight, bias = layer.weight.outputs[0], layer.bias.outputs[0]
        result = graph.emit(node, "Gemm", [real, weight, bias], {}, like=layer.output)
        out = dims(weight)
        if len(shape) != 2 and out is not None:
            result.shape = ir.Shape([None, out[-1]])
            result = reshape(graph, node, result, (*shape[:-1], out[-1]))
        graph.replace(node.outputs[0], result)


def _integer_layer(graph: Graph, node: ir.Node) -> IntegerLayer | None:
    source, weight = (producer_of(value, "DequantizeLinear") for value in node.inputs)
    if source is None or weight is None or constant(weight.inputs[0]) is None or not graph.is_private(node.outputs[0]):
        return None
    addition = next(iter(node.outputs[0].uses()))[0]
    if addition.op_type != "Add":
        return None
    other = next((value for value in addition.inputs if value is not node.outputs[0]), None)
    bias = producer_of(other, "DequantizeLinear")
    if bias is None or constant(bias.inputs[0]) is None or weight.attributes["axis"].as_int() != 1:
        return None
    return IntegerLayer(node, addition, source, weight, bias)


def _columns(graph: Graph, before: ir.Node, weight: ir.Node, columns: slice) -> ir.Value:
    """A range of the channels of a quantized weight or bias, whose last axis those are."""
    parts = [tensor[..., columns] for tensor in map(constant, weight.inputs) if tensor is not None]
    stored = [graph.add_constant("part", part) for part in parts]
    axis = weight.attributes["axis"].as_int()
    value = graph.emit(before, "DequantizeLinear", stored, {"axis": axis}, like=weight.outputs[0])
    value.shape = ir.Shape(parts[0].shape)
    return value


def producer_of(value: ir.Value | None, op_type: str) -> ir.Node | None:
    """The node that makes a value, where it is of that kind."""
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == op_type else None


def _input(node: ir.Node, index: int) -> ir.Value:
    value = node.inputs[index]
    if value is None:
        raise ValueError(f"{node.op_type} lacks an input")
    return value


def grid_of(node: ir.Node) -> list[ir.Value]:
    """Scale and zero point of a DequantizeLinear."""
    return [value for value in node.inputs[1:] if value is not None]
