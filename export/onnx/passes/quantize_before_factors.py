# SPDX-License-Identifier: Apache-2.0
"""Quantizes values before they are multiplied by a constant, so that the layer before returns integers."""

from __future__ import annotations

from vitedge.export.onnx.passes.graph import Graph, GraphPass, attributes_of, constant
from vitedge.export.onnx.passes.integers import qparams_of

_HEADS_BY = ("Gather", "Reshape", "Split", "Squeeze", "Transpose")
"""Operators that split or arrange the heads of an attention."""


@GraphPass
def quantize_before_factors(graph: Graph) -> None:
    """Quantizes a value before a constant factor, with a scale divided by it: ``round(c x / s) = round(x / (s / c))``.

    The factor of an attention's scores is in the scale of its queries then, and the layer before them returns integers.
    A factor that belongs to an activation stays: ONNX Runtime knows GELU by its half.
    """
    for node in [node for node in graph.model.graph if node.op_type == "QuantizeLinear"]:
        product = None if node.inputs[0] is None else node.inputs[0].producer()
        if product is None or product.op_type != "Mul" or not graph.is_private(product.outputs[0]):
            continue
        for value, other in (product.inputs, product.inputs[::-1]):
            factor, scale = constant(other), constant(node.inputs[1])
            if factor is None or scale is None or value is None or factor.numel() != 1 or float(factor) <= 0:
                continue
            producer = value.producer()
            if producer is None or producer.op_type not in _HEADS_BY:
                continue
            finer = graph.add_constant(str(node.inputs[1].name), scale / factor.reshape(()))  # type: ignore[union-attr]
            inputs = [value, finer, *qparams_of(node)[1:]]
            result = graph.emit(node, "QuantizeLinear", inputs, attributes_of(node), like=node.outputs[0])
            graph.replace(node.outputs[0], result)
            graph.model.graph.remove(node, safe=True)
            break
