# SPDX-License-Identifier: Apache-2.0
"""Quantizes the parts of an image that are joined along its channels, so that bytes are joined."""

from __future__ import annotations

from vitedge.export.onnx.passes.graph import Graph, GraphPass, attributes_of, constant
from vitedge.export.onnx.passes.integers import qparams_of
from vitedge.export.onnx.passes.movement import dims, rolled


@GraphPass
def quantize_before_joins(graph: Graph) -> None:
    """Quantizes the parts that are joined along the channels of an image, instead of the whole."""
    for node in [node for node in graph.model.graph if node.op_type == "QuantizeLinear"]:
        join = None if node.inputs[0] is None else node.inputs[0].producer()
        if (
            join is None
            or join.op_type != "Concat"
            or rolled(join) is not None
            or len(dims(join.outputs[0]) or ()) != 4
        ):
            continue
        if not graph.is_private(join.outputs[0]) or any(constant(part) is not None for part in join.inputs):
            continue
        parts = []
        for part in [part for part in join.inputs if part is not None]:
            inputs = [part, *qparams_of(node)]
            quantized = graph.emit(join, "QuantizeLinear", inputs, attributes_of(node), like=node.outputs[0])
            quantized.shape = part.shape
            parts.append(quantized)
        joined = graph.emit(join, "Concat", parts, attributes_of(join), like=node.outputs[0])
        joined.shape = join.outputs[0].shape
        graph.replace(node.outputs[0], joined)
        graph.model.graph.remove(node, safe=True)
