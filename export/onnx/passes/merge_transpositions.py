# SPDX-License-Identifier: Apache-2.0
"""Merges transpositions, with the reshapes between them."""

from __future__ import annotations

import onnx_ir as ir

from vitedge.export.onnx.passes.graph import Graph, GraphPass, constant
from vitedge.export.onnx.passes.movement import Dims, dims, order_of, reshape, transpose


@GraphPass
def merge_transpositions(graph: Graph) -> None:
    """Writes a sequence of reshapes and transpositions with several transpositions as one of those."""
    for node in reversed(list(graph.model.graph)):
        if node.graph is None or node.op_type != "Transpose":
            continue
        if not node.outputs[0].uses() and not node.outputs[0].is_graph_output():
            continue
        chain = _chain_before(node)
        if sum(part.op_type == "Transpose" for part in chain) < 2 or chain[0].inputs[0] is None:
            continue
        source = chain[0].inputs[0]
        plan = _one_transposition(chain)
        shape = dims(node.outputs[0])
        if plan is None or shape is None:
            continue
        split, order = plan
        moved = [axis for axis in order if split[axis] != 1]
        if moved == sorted(moved):  # only edges of one change their place: the values stay where they are
            transposed = source
        else:
            transposed = transpose(graph, node, reshape(graph, node, source, split), order)
        graph.replace(node.outputs[0], reshape(graph, node, transposed, shape))


def _chain_before(node: ir.Node) -> list[ir.Node]:
    """Returns the chain of reshapes and transpositions that ends in a node, from its first transposition on."""
    chain = [node]
    while (value := chain[0].inputs[0]) is not None and len(value.uses()) == 1 and not value.is_graph_output():
        producer = value.producer()
        if (
            producer is None
            or producer.op_type not in ("Reshape", "Transpose")
            or constant(producer.inputs[0]) is not None
        ):
            break
        chain.insert(0, producer)
    while chain[0].op_type != "Transpose":
        del chain[0]
    return chain


class _Axis:
    """An axis of the source, which may be split into several."""

    def __init__(self, size: int | None) -> None:
        self.size = size
        self.parts: list[_Axis] = []

    def leaves(self) -> list[_Axis]:
        return [leaf for part in self.parts for leaf in part.leaves()] if self.parts else [self]

    def split(self, outer: int | None, inner: int | None) -> None:
        self.parts = [_Axis(outer), _Axis(inner)]


def _one_transposition(chain: list[ir.Node]) -> tuple[Dims, list[int]] | None:
    """Returns the shape to give the source and its permutation; None where a reshape splits axes otherwise."""
    start = dims(chain[0].inputs[0])
    if start is None:
        return None
    source = [_Axis(size) for size in start]
    current = [[axis] for axis in source]
    for node in chain:
        if node.op_type == "Transpose":
            current = [current[axis] for axis in order_of(node)]
            continue
        shape = dims(node.outputs[0])
        grouped = (
            None
            if shape is None
            else _regroup([leaf for group in current for axis in group for leaf in axis.leaves()], shape)
        )
        if grouped is None:
            return None
        current = grouped
    leaves = [leaf for axis in source for leaf in axis.leaves()]
    final = [leaf for group in current for axis in group for leaf in axis.leaves()]
    return tuple(leaf.size for leaf in leaves), [leaves.index(leaf) for leaf in final]


def _regroup(axes: list[_Axis], shape: Dims) -> list[list[_Axis]] | None:
    """Assigns axes to the edges of a shape, from both ends towards the edge that depends on the batch."""
    free = shape.index(None) if None in shape else len(shape)
    left = _deal(axes, [edge for edge in shape[:free] if edge is not None], first=True)
    right = (
        None if left is None else _deal(left[1], [edge for edge in shape[free + 1 :] if edge is not None], first=False)
    )
    if left is None or right is None:
        return None
    if free < len(shape):
        return [*left[0], right[1], *right[0]]
    if not left[0] or any(axis.size != 1 for axis in right[1]):
        return None
    left[0][-1].extend(right[1])
    return left[0]


def _deal(axes: list[_Axis], edges: list[int], *, first: bool) -> tuple[list[list[_Axis]], list[_Axis]] | None:
    """Assigns axes to each edge from one end, split where needed; returns the groups and the remaining axes."""
    rest = list(axes)
    groups: list[list[_Axis]] = []
    for edge in edges if first else edges[::-1]:
        group: list[_Axis] = []
        wanted = edge
        while wanted > 1:
            if not rest:
                return None
            axis = rest.pop(0 if first else -1)
            if axis.size is not None and wanted % axis.size == 0:
                wanted //= axis.size
            elif axis.size is None or axis.size % wanted == 0:
                remainder = None if axis.size is None else axis.size // wanted
                axis.split(*((wanted, remainder) if first else (remainder, wanted)))
                axis, other = axis.parts if first else axis.parts[::-1]
                rest.insert(0 if first else len(rest), other)
                wanted = 1
            else:
                return None
            group.insert(len(group) if first else 0, axis)
        groups.insert(len(groups) if first else 0, group)
    return groups, rest
