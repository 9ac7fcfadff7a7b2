# SPDX-License-Identifier: Apache-2.0
"""Query, key and value of quantized attention as three products in the order in which attention reads them.

One Linear for all three leaves a tensor that has to be split and transposed, in float. Three Linears over the same
integers compute the same numbers. Their tokens come first and their batch second, ``(tokens, batch, heads, channels)``:
in that order ONNX Runtime's product of matrices takes the transposition in (``transBatchA`` of its FusedMatMul).
"""

from __future__ import annotations

import onnx_ir as ir

from vitedge.export.onnx.passes.graph import Graph, GraphPass, constant
from vitedge.export.onnx.passes.integers import IntegerLayer, integer_layers
from vitedge.export.onnx.passes.movement import dims, order_of, reshape, transpose

_STACKED = (2, 0, 3, 1, 4)
"""``(batch, tokens, 3, heads, channels)`` to ``(3, batch, heads, tokens, channels)``, as timm writes it."""
_HEADS_FIRST = (1, 2, 0, 3)
_TRANSPOSED_HEADS = (1, 2, 3, 0)


@GraphPass
def separate_projections(graph: Graph) -> None:
    """Replaces every joint projection of which only the parts are read."""
    for layer in integer_layers(graph):
        parts = joint_parts(graph, layer.output)
        if parts:
            _separate(graph, layer, parts)


def joint_parts(graph: Graph, projected: ir.Value) -> list[ir.Node]:
    """Returns the Gathers that split the output of a joint projection after a reshape and a transposition.

    Args:
        graph: that the nodes are in.
        projected: the output, ``(batch, tokens, 3 · heads · channels)``.

    Returns:
        Up to three Gathers of axis 0, ``(batch, heads, tokens, channels)`` each; empty for another form.
    """
    split = only_reader(graph, projected, "Reshape")
    transposed = None if split is None else only_reader(graph, split.outputs[0], "Transpose")
    if transposed is None or order_of(transposed) != _STACKED or graph.is_kept(transposed.outputs[0]):
        return []
    readers = [reader for reader, _ in transposed.outputs[0].uses()]
    split_first = all(reader.op_type == "Gather" and not reader.attributes["axis"].as_int() for reader in readers)
    indices = [constant(reader.inputs[1]) for reader in readers]
    return readers if split_first and all(index is not None and index.ndim == 0 for index in indices) else []


def only_reader(graph: Graph, value: ir.Value, op_type: str) -> ir.Node | None:
    """Returns the only consumer of a value that does not have to stay, if it is of that kind."""
    reader = next(iter(value.uses()))[0] if graph.is_private(value) else None
    return reader if reader is not None and reader.op_type == op_type else None


def _separate(graph: Graph, layer: IntegerLayer, parts: list[ir.Node]) -> None:
    shape, result = dims(layer.integers), dims(parts[0].outputs[0])
    if shape is None or result is None or len(shape) != 3:
        return
    batch, tokens, channels = shape
    _, heads, _, width = result
    if channels is None or heads is None or width is None or tokens is None:
        return
    first = layer.end
    ordered = (tokens, batch, channels)
    integers = (
        reshape(graph, first, layer.integers, ordered)
        if batch == 1
        else transpose(graph, first, layer.integers, (1, 0, 2))
    )
    size = heads * width
    for part in parts:
        index = constant(part.inputs[1])
        start = 0 if index is None else int(index) * size
        value = reshape(
            graph, first, layer.again(graph, first, integers, slice(start, start + size)), (tokens, batch, heads, width)
        )
        transposed = only_reader(graph, part.outputs[0], "Transpose")
        if transposed is not None and order_of(transposed) == (0, 1, 3, 2):
            graph.replace(transposed.outputs[0], transpose(graph, first, value, _TRANSPOSED_HEADS))
        else:
            graph.replace(part.outputs[0], transpose(graph, first, value, _HEADS_FIRST))
