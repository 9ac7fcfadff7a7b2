# SPDX-License-Identifier: Apache-2.0
"""Finds the operands of an attention that may be changed, because nothing else reads the channels they come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from vitedge.program.editor import aten
from vitedge.program.structure import Attention, Layer, Operand, Structure
from vitedge.program.tracing import Tracer, is_factor, is_zero_padding, moved_from, readers


@dataclass(frozen=True, eq=False)
class Values:
    """Output channels of a layer that reach another layer channel by channel, mixed over tokens alone."""

    name: str
    """Name of the attention, or of the layer that reads the channels where there is no attention."""
    layer: Layer
    """The layer that computes the values."""
    rows: Tensor
    """Output channels of the layer, ``(channels,)`` int64."""
    output: Layer
    """The layer that reads the attention's result."""
    columns: Tensor
    """Index into ``rows`` for each input channel of ``output``, ``(channels,)`` int64; each occurs once."""
    centrable: bool
    """Whether the tokens' weights sum to one and nothing is padded, so that a shift of the values is preserved."""


def attention_values(tracer: Tracer, attention: Attention) -> Values | None:
    """Returns the values of an attention; None where anything but its product with the softmax reads them."""
    value, output = attention.value, attention.output
    if value is None or output is None or attention.columns is None or output.groups != 1:
        return None
    node, product = _operand(attention, 2), _products(attention)[1]
    rows = value.rows.flatten()
    if not (_lies_along(tracer, value, node, -1) and is_alone(tracer, value.layer, rows, product)):
        return None
    if not (_is_permutation(attention.columns, rows.numel()) and _are_distinct(rows)):
        return None
    padded = any(is_zero_padding(step) for step in (*moved_from(node), *moved_from(output.input)))
    plain = moved_from(node)[-1] is value.layer.node and _is_over_keys(attention)
    return Values(attention.name, value.layer, rows, output, attention.columns, plain and not padded)


def linear_values(structure: Structure, tracer: Tracer) -> tuple[Values, ...]:
    """Returns the values of linear attentions: ``relu(v)`` times what does not depend on ``v``.

    Those are the attentions of MobileViT v2 (arXiv:2206.02680).
    """
    layers = {layer.node: layer for layer in structure.layers}
    found = (_linear_values(tracer, output, layers) for output in structure.layers if output.groups == 1)
    return tuple(values for values in found if values is not None)


def has_free_scores(tracer: Tracer, attention: Attention) -> bool:
    """Returns whether queries and keys are read by their product alone, channel by channel."""
    query, key, scores = attention.query, attention.key, _products(attention)[0]
    if query is None or key is None or scores is None:
        return False
    key_axis = -1 if scores is attention.node else -2  # a written-out product takes the keys transposed
    rows = torch.cat([query.rows.flatten(), key.rows.flatten() + (key.layer is not query.layer) * 10**9])
    return (
        _are_distinct(rows)
        and _lies_along(tracer, query, _operand(attention, 0), -1)
        and _lies_along(tracer, key, _operand(attention, 1), key_axis)
        and is_alone(tracer, query.layer, query.rows, scores)
        and is_alone(tracer, key.layer, key.rows, scores)
    )


def has_centrable_keys(attention: Attention) -> bool:
    """Returns whether all keys may be shifted by one vector.

    That adds the same number to all scores of a query, to which softmax is invariant.
    """
    key = _operand(attention, 1)
    return _is_over_keys(attention) and not any(is_zero_padding(step) for step in moved_from(key))


def is_alone(tracer: Tracer, layer: Layer, rows: Tensor, reader: Node | None) -> bool:
    """Returns whether some output channels of a layer are read by one node alone, constant factors aside."""
    reading = readers(layer.node)
    if reading is None or reader is None:
        return False
    for user, value in reading:
        if _takes_shape(user, value):
            continue
        numbers = tracer.move(layer.node, value, (layer.channel_axis,)).long()
        if bool(torch.isin(numbers, rows).any()) and _behind_factors(user) is not reader:
            return False
    return True


def _takes_shape(user: Node, value: Node) -> bool:
    """Returns whether a node reads the shape of a value and not its elements."""
    return user.target is aten.sym_size.int or (user.target is aten.expand_as.default and user.args[0] is not value)


def _behind_factors(node: Node | None) -> Node | None:
    while node is not None and is_factor(node):
        reading = readers(node) or []
        node = reading[0][0] if len(reading) == 1 else None
    return node


def _products(attention: Attention) -> tuple[Node | None, Node | None]:
    """Returns the nodes that multiply queries by keys, and the softmax by values."""
    node: Any = attention.node
    if node.target is aten.scaled_dot_product_attention.default:
        return node, node
    reading = readers(node) or []
    scores: Any = node.args[0]
    while isinstance(scores, Node) and scores.target is not aten.matmul.default:
        scores = scores.args[0]
    return scores, reading[0][0] if len(reading) == 1 else None


def _operand(attention: Attention, number: int) -> Node:
    """Returns query, key or value (0, 1, 2) as the product takes it."""
    scores, product = _products(attention)
    if scores is product:
        node: Any = attention.node.args[number]
    else:
        holder: Any = product if number == 2 else scores
        node = holder.args[min(number, 1)]
    return node  # type: ignore[no-any-return]


def _lies_along(tracer: Tracer, operand: Operand, node: Node, axis: int) -> bool:
    """Returns whether the channels of an operand lie along an axis, the tokens along the other of the last two."""
    moved = tracer.move(operand.layer.node, node, (operand.layer.channel_axis,)).movedim(axis, -1)
    fits = moved.shape[-1] == operand.rows.shape[1] and moved.shape[-3] == operand.rows.shape[0]
    return fits and bool((moved == operand.rows[:, None, :]).all())


def _is_over_keys(attention: Attention) -> bool:
    arguments: Any = attention.node.args
    if attention.node.target is aten.scaled_dot_product_attention.default:
        return True
    return arguments[1] in (-1, len(attention.node.meta["val"].shape) - 1)


def _is_permutation(columns: Tensor, channels: int) -> bool:
    return columns.numel() == channels and _are_distinct(columns)


def _are_distinct(numbers: Tensor) -> bool:
    return len(set(numbers.tolist())) == numbers.numel()


def _linear_values(tracer: Tracer, output: Layer, layers: dict[Node, Layer]) -> Values | None:
    product: Any = output.source
    factors = product.args if product.target is aten.mul.Tensor else ()
    gate = next((part for part in factors if isinstance(part, Node) and part.target is aten.relu.default), None)
    if gate is None or gate.meta["val"].shape != product.meta["val"].shape or readers(gate) != [(product, gate)]:
        return None
    before: Any = gate.args[0]
    origin = moved_from(before)[-1]
    layer = layers.get(origin)
    if layer is None or readers(product) != [(output.node, output.input)]:
        return None
    rows = tracer.channels(layer.node, before, (layer.channel_axis,), layer.channel_axis)
    columns = tracer.channels(product, output.input, (layer.channel_axis,), output.channel_axis)
    if rows is None or columns is None or not _is_permutation(columns, rows.numel()):
        return None
    if not _are_distinct(rows) or not is_alone(tracer, layer, rows, gate):
        return None
    return Values(output.name, layer, rows, output, columns, centrable=False)
