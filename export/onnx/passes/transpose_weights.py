# SPDX-License-Identifier: Apache-2.0
"""Stores integer weights in the order in which they are multiplied."""

from __future__ import annotations

from vitedge.export.onnx.passes.graph import Graph, GraphPass, constant, input_of
from vitedge.export.onnx.passes.integers import producer_of, qparams_of


@GraphPass
def transpose_weights(graph: Graph) -> None:
    """Stores the weight of a Linear as ``(in, out)``, as it is multiplied, to save a transposition at run time."""
    for node in list(graph.model.graph):
        weight = producer_of(node.inputs[0], "DequantizeLinear") if node.op_type == "Transpose" else None
        integers = None if weight is None else constant(weight.inputs[0])
        if weight is None or integers is None or integers.ndim != 2 or "block_size" in weight.attributes:
            continue
        stored = graph.add_constant(str(input_of(weight).name), integers.T)
        axis = 1 - weight.attributes["axis"].as_int()
        transposed = graph.emit(
            node, "DequantizeLinear", [stored, *qparams_of(weight)], {"axis": axis}, like=weight.outputs[0]
        )
        transposed.shape = stored.shape
        graph.replace(node.outputs[0], transposed)
