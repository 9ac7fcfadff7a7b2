# SPDX-License-Identifier: Apache-2.0
"""Moves quantizers before joins, data movement and factors, so that bytes move, and shares them among consumers."""

from __future__ import annotations

import onnx_ir as ir

from vitedge.export.onnx.passes.graph import Graph, constant
from vitedge.export.onnx.passes.movement import dims, movers, repeat, rolled, source_of

_HEADS_BY = ("Gather", "Reshape", "Split", "Squeeze", "Transpose")
"""Operators that split or arrange the heads of an attention."""


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
        qparams = [value for value in node.inputs[1:] if value is not None]
        parts = []
        for part in join.inputs:
            if part is not None:
                parts.append(graph.emit(join, "QuantizeLinear", [part, *qparams], {}, like=node.outputs[0]))
                parts[-1].shape = part.shape
        attributes = {name: attribute.value for name, attribute in join.attributes.items()}
        joined = graph.emit(join, "Concat", parts, attributes, like=node.outputs[0])
        joined.shape = join.outputs[0].shape
        graph.replace(node.outputs[0], joined)
        graph.model.graph.remove(node, safe=True)


def quantize_before_movement(graph: Graph) -> None:
    """Quantizes a value before its data movement, not after: rounding is elementwise, so nothing changes."""
    for node in [node for node in graph.model.graph if node.op_type == "QuantizeLinear"]:
        chain = _movement_before(node)
        source = source_of(chain[0]) if chain else None
        if source is None:
            continue
        qparams = [value for value in node.inputs[1:] if value is not None]
        value = graph.emit(chain[0], "QuantizeLinear", [source, *qparams], {}, like=node.outputs[0])
        value.shape = source.shape
        for mover in chain:
            value = repeat(graph, mover, value, fill=qparams[-1])
        graph.replace(node.outputs[0], value)
        graph.model.graph.remove(node, safe=True)


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
            qparams = [finer, *(value for value in node.inputs[2:] if value is not None)]
            result = graph.emit(node, "QuantizeLinear", [value, *qparams], {}, like=node.outputs[0])
            graph.replace(node.outputs[0], result)
            graph.model.graph.remove(node, safe=True)
            break


def share_quantizers(graph: Graph) -> None:
    """Leaves one QuantizeLinear of those that quantize the same value with equal scale and zero point."""
    seen: dict[object, ir.Value] = {}
    for node in list(graph.model.graph):
        if node.op_type != "QuantizeLinear":
            continue
        qparams = tuple(
            (tensor.dtype, tensor.item()) for tensor in map(constant, node.inputs[1:]) if tensor is not None
        )
        first = seen.setdefault((node.inputs[0], qparams), node.outputs[0])
        if first is not node.outputs[0]:
            graph.replace(node.outputs[0], first)
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
