# SPDX-License-Identifier: Apache-2.0
"""Heads of attention widened by channels of zeros, to a size that TensorRT fuses.

With zeros in the weights and biases of query, key and value the added channels add nothing to the scores, and make
channels of zeros in the result, which the projection after it multiplies by zeros. The factor of the scores stays that
of the original size. So every number stays what it was, but for the order in which a kernel sums.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir
import torch
from torch import Tensor

from vitedge.export.onnx.passes.graph import Graph, GraphPass, attributes_of, constant, input_of
from vitedge.export.onnx.passes.integers import producer_of, qparams_of
from vitedge.export.onnx.passes.movement import dims, reshape
from vitedge.export.tensorrt.heads import fuses, padded_width

_ROUNDING = ("QuantizeLinear", "DequantizeLinear")
_MOVED = ("Mul", "Transpose", "Gather", *_ROUNDING)
"""Operators between the reshapes that split and join heads and the two products, whatever the size of a head."""
_ON_SCORES = ("Add", "Mul", "Reshape", *_ROUNDING)
"""Operators between the scores and their softmax: a bias, the mask of shifted windows, a factor."""
_ADDED = -1
"""Stands for an added channel among the numbers of channels."""
_QPARAMS = (1, 0)
"""Scale and zero point of an added output channel."""


@dataclass(frozen=True)
class _Attention:
    """The nodes of an attention that depend on the size of a head."""

    splits: tuple[ir.Node, ...]
    """The Reshapes of projections to ``(batch, tokens, …, heads, width)``."""
    join: ir.Node
    """The Reshape of the result to ``(batch, tokens, heads * width)``."""
    output: ir.Node
    """The product that reads the result."""


@GraphPass
def pad_heads(graph: Graph) -> None:
    """Widens the heads of attentions whose size is not fused, and notes how many it widened and how many it left."""
    widened, left = [], 0
    for softmax in [node for node in graph.model.graph if node.op_type == "Softmax"]:
        scores = _product_before(softmax)
        shape = None if scores is None else dims(scores.inputs[0])
        if scores is None or shape is None or shape[-1] is None:
            continue
        width, integers = shape[-1], producer_of(scores.inputs[0], "DequantizeLinear") is not None
        wider = padded_width(width, integers=integers)
        if fuses(width, integers=integers) or wider == width:
            continue
        found = _find(graph, softmax, scores, width)
        if found is None:
            left += 1
            continue
        _widen(graph, found, width, wider)
        widened.append(f"{width} to {wider}")
    if widened:
        sizes = ", ".join(f"{widened.count(each)} from {each}" for each in dict.fromkeys(widened))
        graph.notes.append(f"heads widened by channels of zeros: {sizes} channels")
        _forget_shapes(graph)
    if left:
        graph.notes.append(f"{left} attentions are written in a form whose heads are not widened")


def _forget_shapes(graph: Graph) -> None:
    """Leaves the shapes of all values in between to inference."""
    for node in graph.model.graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None


def _product_before(softmax: ir.Node) -> ir.Node | None:
    """Returns the product of queries and keys; a mask may be added to it."""
    node = input_of(softmax).producer()
    while node is not None and node.op_type in _ON_SCORES:
        node = _source(node)
    return node if node is not None and node.op_type == "MatMul" else None


def _source(node: ir.Node) -> ir.Node | None:
    """Returns the producer of a node's first input that is no constant."""
    return next((value.producer() for value in node.inputs if value is not None and constant(value) is None), None)


def _find(graph: Graph, softmax: ir.Node, scores: ir.Node, width: int) -> _Attention | None:
    """Returns an attention whose reshapes only data movement, factors and rounding separate from its products."""
    context = _reader(graph, softmax.outputs[0], "MatMul", _ROUNDING)
    join = None if context is None else _reader(graph, context.outputs[0], "Reshape", _MOVED)
    output = None if join is None else _reader(graph, join.outputs[0], "MatMul", _ROUNDING)
    if context is None or join is None or output is None or not _has_weight(output):
        return None
    operands = (input_of(scores), input_of(scores, 1), input_of(context, 1))
    splits = dict.fromkeys(_split_before(operand) for operand in operands)
    known = [node for node in splits if node is not None and (dims(node.outputs[0]) or (0,))[-1] == width]
    if len(known) != len(splits) or any(_projection(graph, node) is None for node in known):
        return None
    return _Attention(tuple(known), join, output)


def _reader(graph: Graph, value: ir.Value, op_type: str, between: Sequence[str]) -> ir.Node | None:
    """Returns the one node of a kind that reads a value, behind others of the given kinds."""
    while graph.is_private(value):
        (node, _) = next(iter(value.uses()))
        if node.op_type == op_type or node.op_type not in between:
            return node if node.op_type == op_type else None
        value = node.outputs[0]
    return None


def _split_before(value: ir.Value) -> ir.Node | None:
    node = value.producer()
    while node is not None and node.op_type in _MOVED:
        node = _source(node)
    return node if node is not None and node.op_type == "Reshape" else None


@dataclass(frozen=True)
class _Projection:
    """A Linear by its product and, where it has one, the addition of its bias."""

    product: ir.Node
    addition: ir.Node | None


def _projection(graph: Graph, split: ir.Node) -> _Projection | None:
    """Returns the Linear whose output a Reshape splits, where nothing else reads it."""
    value = input_of(split)
    node = value.producer() if graph.is_private(value) else None
    if node is None or node.op_type == "MatMul":
        return None if node is None or not _has_weight(node) else _Projection(node, None)
    if node.op_type != "Add":
        return None
    product = _source(node) if any(constant(source) is not None for source in node.inputs) else None
    if product is None or product.op_type != "MatMul" or not _has_weight(product):
        return None
    return _Projection(product, node) if graph.is_private(product.outputs[0]) else None


def _has_weight(product: ir.Node) -> bool:
    """Returns whether the second operand is a matrix ``(in, out)``, in one piece or dequantized along axis 1."""
    weight = input_of(product, 1)
    node = weight.producer()
    return constant(weight) is not None or (node is not None and _is_by_column(node))


def _is_by_column(node: ir.Node) -> bool:
    if node.op_type != "DequantizeLinear" or "block_size" in node.attributes or constant(node.inputs[0]) is None:
        return False
    return "axis" in node.attributes and node.attributes["axis"].as_int() == 1


def _widen(graph: Graph, attention: _Attention, width: int, wider: int) -> None:
    for split in attention.splits:
        shape = dims(split.outputs[0]) or ()
        places = _places([edge or 0 for edge in shape[2:-1]], width, wider)
        projection = _projection(graph, split)
        if projection is not None:
            _spread(graph, projection.product, places, axis=1)
            if projection.addition is not None:
                _spread_bias(graph, projection.addition, places)
        _reshape(graph, split, wider)
    heads = (dims(attention.join.outputs[0]) or (0,))[-1] or 0
    _spread(graph, attention.output, _places([heads // width], width, wider), axis=0)
    _reshape(graph, attention.join, heads // width * wider)


def _places(outer: Sequence[int], width: int, wider: int) -> Tensor:
    """Returns the number of the old channel for each new one, `_ADDED` for those of zeros; flat, int64.

    Args:
        outer: edges before the channels of a head, such as ``(3, heads)``.
        width: channels of a head.
        wider: the same, widened.
    """
    old = torch.arange(math.prod(outer) * width).reshape(*outer, width)
    return torch.nn.functional.pad(old, (0, wider - width), value=_ADDED).flatten()


def _spread(graph: Graph, product: ir.Node, places: Tensor, axis: int) -> None:
    """Gives a product the weight with its channels at their new places along an axis of ``(in, out)``."""
    weight = input_of(product, 1)
    matrix = weight.producer()
    if matrix is None:
        product.replace_input_with(1, _spread_constant(graph, weight, places, axis))
        return
    parameters = qparams_of(matrix)
    if axis == 1:
        pairs = zip(parameters, _QPARAMS, strict=False)
        parameters = [_spread_constant(graph, value, places, 0, added) for value, added in pairs]
    stored = _spread_constant(graph, matrix.inputs[0], places, axis)
    widened = graph.emit(product, matrix.op_type, [stored, *parameters], attributes_of(matrix), like=weight)
    product.replace_input_with(1, widened)


def _spread_bias(graph: Graph, addition: ir.Node, places: Tensor) -> None:
    index = next(index for index, value in enumerate(addition.inputs) if constant(value) is not None)
    addition.replace_input_with(index, _spread_constant(graph, addition.inputs[index], places, 0))


def _spread_constant(graph: Graph, value: ir.Value | None, places: Tensor, axis: int, added: float = 0) -> ir.Value:
    tensor = constant(value)
    if value is None or tensor is None:
        raise ValueError("a weight is expected to be a constant")
    spread = tensor.index_select(axis, places.clamp(min=0))
    spread.index_fill_(axis, (places == _ADDED).nonzero().flatten(), added)
    return graph.add_constant(str(value.name), spread)


def _reshape(graph: Graph, node: ir.Node, last: int) -> None:
    """Gives a Reshape another last edge."""
    shape = dims(node.outputs[0])
    if shape is None:
        raise ValueError(f"the shape of {node.outputs[0].name} is not known")
    graph.replace(node.outputs[0], reshape(graph, node, input_of(node), (*shape[:-1], last)))
