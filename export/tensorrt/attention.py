# SPDX-License-Identifier: Apache-2.0
"""The attentions of an ONNX graph: a product of queries and keys, a softmax, and a product with the values."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from onnx import NodeProto

from vitedge.export.tensorrt.graph import MOVEMENT, OnnxGraph

_ON_SCORES = ("Add", "Sub", "Mul", "Div", "QuantizeLinear", "DequantizeLinear")
_ON_PROBABILITIES = ("QuantizeLinear", "DequantizeLinear", "Clip")


@dataclass(frozen=True)
class Attention:
    """One attention, by its nodes."""

    softmax: NodeProto
    scores: NodeProto
    """The product of queries and keys."""
    context: NodeProto
    """The product of probabilities and values."""
    on_scores: tuple[NodeProto, ...]
    """Operators between the scores and the softmax, data movement and the mask's Add left out."""
    quantized: dict[str, bool]
    """``query``, ``key``, ``probabilities`` and ``value`` to whether they are read from a DequantizeLinear, and
    ``context`` to whether everything that reads it quantizes it first."""


def attentions_of(graph: OnnxGraph) -> Iterator[Attention]:
    """Yields the attentions of a graph in the order of its nodes."""
    for softmax in graph.of("Softmax"):
        scores, on_scores = scores_of(graph, softmax)
        context, probabilities = _weighted(graph, softmax.output[0])
        if scores is None or context is None:
            continue
        value = context.input[1 - list(context.input).index(probabilities)]
        operands = {"query": scores.input[0], "key": scores.input[1], "probabilities": probabilities, "value": value}
        quantized = {name: graph.is_dequantized(operand) for name, operand in operands.items()}
        consumers = graph.after_movement(context.output[0])
        quantized["context"] = bool(consumers) and all(node.op_type == "QuantizeLinear" for node in consumers)
        yield Attention(softmax, scores, context, tuple(on_scores), quantized)


def head_width(graph: OnnxGraph, attention: Attention) -> int:
    """Returns the channels of one head; 0 where the graph does not tell."""
    return next(iter(graph.type_of(attention.scores.input[0]).shape[-1:]), 0)


def is_alone(graph: OnnxGraph, attention: Attention) -> bool:
    """Returns whether there is one head of one image: TensorRT-RTX 1.7 then computes its products one by one.

    The same head in a batch of two, or of any size, becomes one kernel, as two heads of one image do.
    """
    batch = [side for value in graph.inputs() for side in value.type.tensor_type.shape.dim[:1]]
    outer = graph.type_of(attention.scores.output[0]).shape[:-2]
    return bool(outer) and math.prod(outer) == 1 and all(side.dim_value == 1 for side in batch)


def scores_of(graph: OnnxGraph, softmax: NodeProto) -> tuple[NodeProto | None, list[NodeProto]]:
    """Returns the product of queries and keys, and the operators between it and the softmax except the mask's Add."""
    others: list[NodeProto] = []
    node = graph.before_movement(softmax.input[0])
    while node is not None and node.op_type in _ON_SCORES:
        if node.op_type != "Add":
            others.append(node)
        varying = [name for name in node.input if graph.constant(name) is None]
        node = graph.before_movement(varying[0]) if varying else None
    return (node, others) if node is not None and node.op_type == "MatMul" else (None, [])


def _weighted(graph: OnnxGraph, name: str) -> tuple[NodeProto | None, str]:
    """Returns the product of probabilities and values, and the name under which it reads the probabilities."""
    for consumer in graph.consumers(name):
        if consumer.op_type == "MatMul":
            return consumer, name
        if consumer.op_type in MOVEMENT or consumer.op_type in _ON_PROBABILITIES:
            product, below = _weighted(graph, consumer.output[0])
            if product is not None:
                return product, below
    return None, ""
