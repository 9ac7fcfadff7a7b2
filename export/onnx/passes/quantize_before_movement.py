# SPDX-License-Identifier: Apache-2.0
"""Quantizes values before they are moved, so that bytes move."""

from __future__ import annotations

import onnx_ir as ir

from vitedge.export.onnx.passes.graph import Graph, GraphPass, attributes_of
from vitedge.export.onnx.passes.integers import qparams_of
from vitedge.export.onnx.passes.movement import movers, repeat, source_of


@GraphPass
def quantize_before_movement(graph: Graph) -> None:
    """Quantizes a value before its data movement, not after: rounding is elementwise, so nothing changes."""
    for node in [node for node in graph.model.graph if node.op_type == "QuantizeLinear"]:
        chain = _movement_before(node)
        source = source_of(chain[0]) if chain else None
        if source is None:
            continue
        qparams = qparams_of(node)
        value = graph.emit(chain[0], "QuantizeLinear", [source, *qparams], attributes_of(node), like=node.outputs[0])
        value.shape = source.shape
        for mover in chain:
            value = repeat(graph, mover, value, fill=qparams[-1])
        graph.replace(node.outputs[0], value)
        graph.model.graph.remove(node, safe=True)


def _movement_before(quantizer: ir.Node) -> list[ir.Node]:
    """Returns the data-movement nodes before a quantizer, in order, as far as nothing else reads them.

    A block's value among them stays in the graph, so that it can still be compared.
    """
    chain: list[ir.Node] = []
    value, reader = quantizer.inputs[0], quantizer
    while value is not None and not value.is_graph_output() and movers(value) == {reader}:
        node = value.producer()
        source = source_of(node)
        if node is None or source is None:
            break
        chain.insert(0, node)
        value, reader = source, node
    return chain
