# SPDX-License-Identifier: Apache-2.0
"""Query, key and value of an attention as three products of one input, for TensorRT.

Of a joint product whose weight is integers TensorRT's compiler takes the parts while it computes, and dequantizes the
weight for each of them: the product runs in float. Of three products it makes three of integers, and fuses the
attention that reads them (seen in the layers of TensorRT for RTX 1.7.1 for SM75 and SM86). They compute the same
numbers: every output channel has its own weights, scale and bias.
"""

from __future__ import annotations

import onnx_ir as ir

from vitedge.export.onnx.passes.attention_layout import joint_parts, only_reader
from vitedge.export.onnx.passes.graph import Graph, GraphPass, constant, input_of
from vitedge.export.onnx.passes.integers import columns_of, producer_of
from vitedge.export.onnx.passes.movement import dims, reshape, transpose

_HEADS_FIRST = (0, 2, 1, 3)
"""``(batch, tokens, heads, channels)`` to ``(batch, heads, tokens, channels)``."""


@GraphPass
def split_projections(graph: Graph) -> None:
    """Replaces every joint projection with integer weights of which only the parts are read."""
    for product in list(graph.model.graph):
        weight = producer_of(product.inputs[1], "DequantizeLinear") if product.op_type == "MatMul" else None
        if weight is None or constant(weight.inputs[0]) is None or not _is_by_column(weight):
            continue
        addition = only_reader(graph, product.outputs[0], "Add")
        bias = None if addition is None else _constant_operand(addition)
        end = product if addition is None or bias is None else addition
        parts = joint_parts(graph, end.outputs[0])
        for part in parts:
            _split(graph, product, weight, bias, part)


def _is_by_column(weight: ir.Node) -> bool:
    """Returns whether the integers are ``(in, out)`` with one scale for each output channel."""
    axis = weight.attributes.get("axis")
    return "block_size" not in weight.attributes and axis is not None and axis.as_int() == 1


def _constant_operand(addition: ir.Node) -> ir.Value | None:
    return next((value for value in addition.inputs if constant(value) is not None), None)


def _split(graph: Graph, product: ir.Node, weight: ir.Node, bias: ir.Value | None, part: ir.Node) -> None:
    """Computes one part of a projection by a product of its own."""
    index, shape = constant(part.inputs[1]), dims(part.outputs[0])
    if index is None or shape is None or None in shape[1:]:
        return
    batch, heads, tokens, width = shape
    size = (heads or 0) * (width or 0)
    columns = slice(int(index) * size, (int(index) + 1) * size)
    source = input_of(product)
    result = graph.emit(
        product, "MatMul", [source, columns_of(graph, product, weight, columns)], {}, like=product.outputs[0]
    )
    result.shape = ir.Shape((batch, tokens, size))
    vector = constant(bias)
    if bias is not None and vector is not None:
        stored = graph.add_constant(str(bias.name), vector[..., columns])
        result = graph.emit(product, "Add", [result, stored], {}, like=result)
    by_head = reshape(graph, part, result, (batch, tokens, heads, width))
    graph.replace(part.outputs[0], transpose(graph, part, by_head, _HEADS_FIRST))
