# SPDX-License-Identifier: Apache-2.0
"""Takes out expansions that broadcasting does by itself."""

from __future__ import annotations

import onnx_ir as ir

from vitedge.export.onnx.passes.graph import Graph, GraphPass

_BROADCASTING = ("Add", "Sub", "Mul", "Div")


@GraphPass
def remove_expansions(graph: Graph) -> None:
    """Lets a sum or a product read what was expanded only to the shape that its other operand has."""
    for node in [node for node in graph.model.graph if node.op_type == "Expand"]:
        source, result = node.inputs[0], node.outputs[0]
        if source is None or graph.is_kept(result):
            continue
        if all(_broadcasts_to(consumer, result) for consumer, _ in result.uses()):
            graph.replace(result, source)


def _broadcasts_to(consumer: ir.Node, expanded: ir.Value) -> bool:
    """Whether the consumer's other operand already has the expanded shape."""
    if consumer.op_type not in _BROADCASTING or expanded.shape is None:
        return False
    others = [value for value in consumer.inputs if value is not expanded]
    return len(others) == 1 and others[0] is not None and others[0].shape == expanded.shape
