# SPDX-License-Identifier: Apache-2.0
"""Linears over integers in the form that they have in the program."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from vitedge.export.onnx.passes.graph import MODULES, Graph, constant, input_of
from vitedge.export.onnx.passes.movement import dims

PRODUCTS = ("MatMul", "Gemm", "Conv")
"""Operators that multiply two operands."""


@dataclass(frozen=True)
class IntegerLayer:
    """``Add(MatMul(input, weight), bias)`` of dequantized operands; the product alone where the bias is in float."""

    product: ir.Node
    end: ir.Node
    """The last of its nodes."""
    input: ir.Node
    """Dequantizes the input, ``(…, in)``."""
    weight: ir.Node
    """Dequantizes the weight, ``(in, out)``, along axis 1."""
    bias: ir.Node | None
    """Dequantizes the bias, int32 ``(out,)``."""

    @property
    def integers(self) -> ir.Value:
        """The input of the layer, as integers."""
        return input_of(self.input)

    @property
    def output(self) -> ir.Value:
        """The output of the layer, ``(…, out)``, float."""
        return self.end.outputs[0]

    def again(self, graph: Graph, before: ir.Node, integers: ir.Value, columns: slice | None = None) -> ir.Value:
        """Writes the layer once more, over other integers or for a range of its output channels.

        Args:
            graph: gets the new nodes.
            before: where they go.
            integers: ``(…, in)``.
            columns: the channels; None is all.
        """
        weight = columns_of(graph, before, self.weight, columns)
        real = graph.emit(
            before, "DequantizeLinear", [integers, *qparams_of(self.input)], {}, like=self.input.outputs[0]
        )
        result = graph.emit(before, "MatMul", [real, weight], {}, like=self.output)
        shape, matrix = dims(integers), dims(weight)
        real.shape = integers.shape
        result.shape = None if shape is None or matrix is None else ir.Shape([*shape[:-1], matrix[-1]])
        made = [real, result]
        if self.bias is not None:
            bias = columns_of(graph, before, self.bias, columns)
            made.append(graph.emit(before, "Add", [result, bias], {}, like=result))
        for value in made:
            node = value.producer()
            if node is not None:
                node.meta[MODULES] = self.product.meta[MODULES]
        return made[-1]


def integer_layers(graph: Graph) -> Iterator[IntegerLayer]:
    """Yields the Linears whose input, weight and bias are integers."""
    for node in list(graph.model.graph):
        layer = _integer_layer(node) if node.op_type == "MatMul" else None
        if layer is not None:
            yield layer


def _integer_layer(node: ir.Node) -> IntegerLayer | None:
    source, weight = (producer_of(value, "DequantizeLinear") for value in node.inputs)
    if source is None or weight is None or constant(weight.inputs[0]) is None:
        return None
    if "block_size" in weight.attributes or weight.attributes["axis"].as_int() != 1:
        return None
    readers = [reader for reader, _ in node.outputs[0].uses()]
    addition = readers[0] if len(readers) == 1 and readers[0].op_type == "Add" else None
    others = [] if addition is None else [value for value in addition.inputs if value is not node.outputs[0]]
    bias = next((made for value in others if (made := producer_of(value, "DequantizeLinear")) is not None), None)
    if addition is None or bias is None or constant(bias.inputs[0]) is None:
        return IntegerLayer(node, node, source, weight, None)
    return IntegerLayer(node, addition, source, weight, bias)


def columns_of(graph: Graph, before: ir.Node, weight: ir.Node, columns: slice | None) -> ir.Value:
    """Returns a range of the channels, the last axis, of a quantized weight or bias, dequantized."""
    if columns is None:
        return weight.outputs[0]
    parts = [tensor[..., columns] for tensor in map(constant, weight.inputs) if tensor is not None]
    stored = [graph.add_constant("part", part) for part in parts]
    axis = weight.attributes["axis"].as_int()
    value = graph.emit(before, "DequantizeLinear", stored, {"axis": axis}, like=weight.outputs[0])
    value.shape = ir.Shape(parts[0].shape)
    return value


def producer_of(value: ir.Value | None, op_type: str) -> ir.Node | None:
    """Returns the producer of a value, if it is of that kind."""
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == op_type else None


def qparams_of(node: ir.Node) -> list[ir.Value]:
    """Returns scale and zero point of a QuantizeLinear or a DequantizeLinear."""
    return [value for value in node.inputs[1:] if value is not None]
