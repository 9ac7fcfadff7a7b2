# SPDX-License-Identifier: Apache-2.0
"""Moves changes of the order of tokens before a Linear, where tokens are bytes."""

from __future__ import annotations

import onnx_ir as ir

from vitedge.export.onnx.passes.graph import Graph, GraphPass
from vitedge.export.onnx.passes.integers import IntegerLayer, integer_layers
from vitedge.export.onnx.passes.movement import Dims, dims, movers, order_of, repeat, source_of


@GraphPass
def move_tokens_before_layers(graph: Graph) -> None:
    """Has a Linear read its tokens in the order in which they are needed after it."""
    for layer in integer_layers(graph):
        chain = _movement_of_tokens(graph, layer)
        shape, wanted = dims(layer.integers), dims(layer.output)
        if not chain or shape is None or wanted is None or shape[:-1] != wanted[:-1] or shape[-1] is None:
            continue
        value = layer.integers
        for node in chain:
            value = repeat(graph, node, value, last=shape[-1])
        end = chain[-1]
        graph.replace(end.outputs[0], layer.again(graph, end, value))


def _movement_of_tokens(graph: Graph, layer: IntegerLayer) -> list[ir.Node]:
    """Returns the data-movement nodes after a layer that keep its channels together, without trailing reshapes."""
    chain: list[ir.Node] = []
    last = 0
    value = layer.output
    while not graph.is_kept(value) and (node := _sole_movement(value)) is not None:
        before, after = dims(value), dims(node.outputs[0])
        if before is None or after is None or not _keeps_channels(node, before, after):
            break
        chain.append(node)
        if node.op_type != "Reshape":
            last = len(chain)
        value = node.outputs[0]
    return chain[:last]


def _sole_movement(value: ir.Value) -> ir.Node | None:
    """Returns the only consumer of a value, if that is data movement."""
    readers = movers(value)
    (reader,) = readers if len(readers) == 1 else (None,)
    return reader if source_of(reader) is value else None


def _keeps_channels(node: ir.Node, before: Dims, after: Dims) -> bool:
    if node.op_type == "Transpose":
        return order_of(node)[-1] == len(before) - 1
    if node.op_type == "Concat":
        return node.attributes["axis"].as_int() not in (-1, len(before) - 1)
    return before[-1] == after[-1]
