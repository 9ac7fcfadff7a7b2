# SPDX-License-Identifier: Apache-2.0
"""Moves additions of constants before transpositions."""

from __future__ import annotations

from vitedge.export.onnx.passes.graph import Graph, GraphPass, constant
from vitedge.export.onnx.passes.movement import order_of, transpose


@GraphPass
def add_before_transposition(graph: Graph) -> None:
    """Adds a constant, such as a position embedding, before a transposition, so that two of those can merge.

    A block's value that is transposed stays in the graph, so that it can still be compared.
    """
    for node in [node for node in graph.model.graph if node.op_type == "Add"]:
        for moved, other in (node.inputs, node.inputs[::-1]):
            tensor, mover = constant(other), None if moved is None else moved.producer()
            if tensor is None or mover is None or moved is None or other is None:
                continue
            source = mover.inputs[0]
            if mover.op_type != "Transpose" or source is None or moved.is_graph_output() or len(moved.uses()) > 1:
                continue
            order = order_of(mover)
            whole = tensor.reshape(*[1] * (len(order) - tensor.ndim), *tensor.shape)
            transposed = whole.permute([order.index(axis) for axis in range(len(order))]).contiguous()
            result = graph.emit(node, "Add", [source, graph.add_constant(str(other.name), transposed)], {}, like=source)
            graph.replace(node.outputs[0], transpose(graph, node, result, order))
            break
