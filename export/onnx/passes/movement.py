# SPDX-License-Identifier: Apache-2.0
"""Data-movement operators: recognizing and repeating them.

Rounding to integers works element by element, and a Linear works token by token, so both commute with a movement. Moved
as bytes, the same values are a quarter of the memory traffic.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
import torch

from vitedge.export.onnx.passes.graph import Graph, attributes_of, constant

Dims = tuple[int | None, ...]
"""A shape; None is the edge that depends on the batch."""


def dims(value: ir.Value | None) -> Dims | None:
    """Returns the value's shape, or None where more than one edge is unknown."""
    if value is None or value.shape is None:
        return None
    edges = tuple(edge if isinstance(edge, int) else None for edge in value.shape)
    return edges if edges.count(None) <= 1 else None


def reshape(graph: Graph, before: ir.Node, value: ir.Value, shape: Dims) -> ir.Value:
    """Returns the value in another shape."""
    sizes = graph.add_constant("shape", torch.tensor([-1 if edge is None else edge for edge in shape]))
    result = graph.emit(before, "Reshape", [value, sizes], {}, like=value)
    result.shape = ir.Shape(shape)
    return result


def transpose(graph: Graph, before: ir.Node, value: ir.Value, order: Sequence[int]) -> ir.Value:
    """Returns the value with its axes in another order."""
    shape = dims(value)
    result = graph.emit(before, "Transpose", [value], {"perm": list(order)}, like=value)
    result.shape = None if shape is None else ir.Shape([shape[axis] for axis in order])
    return result


def order_of(node: ir.Node) -> tuple[int, ...]:
    """Returns the permutation of a Transpose."""
    return tuple(node.attributes["perm"].as_ints())


def rolled(node: ir.Node | None) -> ir.Value | None:
    """Returns the value that a Concat of two of its slices shifts cyclically, or None for another node."""
    if node is None or node.op_type != "Concat" or len(node.inputs) != 2:
        return None
    slices = [value.producer() for value in node.inputs if value is not None]
    if any(part is None or part.op_type != "Slice" or len(part.outputs[0].uses()) != 1 for part in slices):
        return None
    sources = {part.inputs[0] for part in slices if part is not None}
    same_size = bool(sources) and dims(next(iter(sources))) == dims(node.outputs[0]) is not None
    return next(iter(sources)) if len(sources) == 1 and same_size else None


def movers(value: ir.Value) -> set[ir.Node]:
    """Returns the consumers of a value; for two slices of it that are joined again, the node that joins them."""
    readers = set()
    for reader, _ in value.uses():
        joins = [user for user, _ in reader.outputs[0].uses()] if reader.op_type == "Slice" else []
        readers.add(joins[0] if len(joins) == 1 and rolled(joins[0]) is value else reader)
    return readers


def source_of(node: ir.Node | None) -> ir.Value | None:
    """Returns the value that a data-movement node moves as a whole, or None for another node."""
    if node is None:
        return None
    if dims(node.outputs[0]) is None:
        return None
    if node.op_type in ("Reshape", "Transpose") and constant(node.inputs[0]) is None:
        return node.inputs[0]
    if node.op_type == "Pad" and _pads_by_nought(node):
        return node.inputs[0]
    return rolled(node)


def _pads_by_nought(node: ir.Node) -> bool:
    fill = constant(node.inputs[2]) if len(node.inputs) > 2 else torch.zeros(())
    return len(node.inputs) <= 3 and fill is not None and not fill.any()


def repeat(
    graph: Graph, node: ir.Node, value: ir.Value, last: int | None = None, fill: ir.Value | None = None
) -> ir.Value:
    """Repeats the data movement of a node for another value.

    Args:
        graph: gets the new nodes, before the node.
        node: one for which `source_of` is not None.
        value: of the shape of its input, but for the last edge where ``last`` is given.
        last: the last edge of the value, which stays the last.
        fill: what a Pad fills with.
    """
    shape = dims(node.outputs[0])
    if shape is None:
        raise ValueError(f"the shape of {node.outputs[0].name} is not known")
    if last is not None:
        shape = (*shape[:-1], last)
    if node.op_type == "Reshape":
        return reshape(graph, node, value, shape)
    if node.op_type == "Transpose":
        return transpose(graph, node, value, order_of(node))
    if node.op_type == "Pad":
        inputs = [value, *_known(node.inputs[1:2]), *(() if fill is None else (fill,))]
    else:
        cuts = [part.producer() for part in _known(node.inputs)]
        inputs = [
            graph.emit(node, "Slice", [value, *_known(cut.inputs[1:])], {}, like=value)
            for cut in cuts
            if cut is not None
        ]
        for part in inputs:
            part.shape = None
    result = graph.emit(node, node.op_type, inputs, attributes_of(node), like=value)
    result.shape = ir.Shape(shape)
    return result


def _known(values: Sequence[ir.Value | None]) -> list[ir.Value]:
    return [value for value in values if value is not None]
