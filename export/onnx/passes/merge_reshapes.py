# SPDX-License-Identifier: Apache-2.0
"""Merges reshapes."""

from __future__ import annotations

from vitedge.export.onnx.passes.graph import Graph, GraphPass
from vitedge.export.onnx.passes.movement import dims, reshape


@GraphPass
def merge_reshapes(graph: Graph) -> None:
    """Merges consecutive reshapes, and removes those that change nothing."""
    for node in list(graph.model.graph):
        if node.op_type != "Reshape" or dims(node.outputs[0]) is None:
            continue
        value = node.inputs[0]
        while value is not None and (before := value.producer()) is not None and before.op_type == "Reshape":
            value = before.inputs[0]
        if value is None:
            continue
        if dims(value) == dims(node.outputs[0]) and not node.outputs[0].is_graph_output():
            graph.replace(node.outputs[0], value)
        elif value is not node.inputs[0]:
            shape = dims(node.outputs[0])
            graph.replace(node.outputs[0], reshape(graph, node, value, shape or ()))
