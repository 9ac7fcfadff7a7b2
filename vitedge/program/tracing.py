# SPDX-License-Identifier: Apache-2.0
"""Traces the channels of one value to another through data-movement operators.

Instead of rules for every way to reshape, permute and roll, the operators themselves move the numbers of the channels.
"""

from __future__ import annotations

import math
import operator
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from vitedge.program.editor import Editor, aten

MOVEMENT = frozenset(
    {
        aten.view.default, aten.reshape.default, aten._unsafe_view.default, aten.permute.default, aten.transpose.int,
        aten.t.default, aten.expand.default, aten.unsqueeze.default, aten.squeeze.dim, aten.flatten.using_ints,
        aten.select.int, aten.slice.Tensor, aten.clone.default, aten.roll.default, aten.unbind.int, aten.chunk.default,
        aten.split_with_sizes.default, aten.split.Tensor, aten.flip.default, operator.getitem,
    }
)  # fmt: skip
"""Operators that move values and compute nothing."""
_SCALAR = (aten.mul.Tensor, aten.div.Tensor)
_NONE = -1.0
"""Stands for no channel, where padding was added."""


def is_zero_padding(node: Node) -> bool:
    """Returns whether a node pads with zeros."""
    arguments: Any = node.args
    if node.target is not aten.pad.default or arguments[2:3] not in ((), ("constant",)):
        return False
    return arguments[3:4] in ((), (None,), (0,))


def is_factor(node: Node) -> bool:
    """Returns whether a node multiplies or divides a value by a constant number."""
    return node.target in _SCALAR and not isinstance(node.args[1], Node)


def moved_from(node: Any) -> list[Node]:
    """Returns a value and the values that it is a moved form of: itself first, then the input of each movement."""
    chain = [node]
    while isinstance(node, Node) and node.op == "call_function" and (node.target in MOVEMENT or is_zero_padding(node)):
        node = node.args[0]
        chain.append(node)
    return chain


def source_of(node: Node) -> Node:
    """Returns the computed value that a value is a moved form or a part of."""
    return moved_from(node)[-1]


def readers(node: Node) -> list[tuple[Node, Node]] | None:
    """Returns the nodes that compute with a value after any data movement, each with the moved value that it takes.

    None where the value, or a part of it, is an output of the program.
    """
    found: list[tuple[Node, Node]] = []
    for user in node.users:
        if user.op == "output":
            return None
        if user.target in MOVEMENT or is_zero_padding(user):
            below = readers(user)
            if below is None:
                return None
            found.extend(below)
        else:
            found.append((user, node))
    return found


class Tracer:
    """Moves the numbers of channels through the operators of a program, for one image."""

    def __init__(self, editor: Editor) -> None:
        self._editor = editor
        shape = [1, *(int(edge) for edge in editor.image().meta["val"].shape[1:])]
        self._known: dict[Node, Any] = {editor.image(): torch.zeros(shape)}

    def move(self, start: Node, end: Node, axes: tuple[int, ...]) -> Tensor:
        """Traces where the channels of a value are in a moved one.

        Args:
            start: the value whose channels are numbered from 0 along ``axes``, the last of them fastest.
            end: a value that is ``start`` in another arrangement or part of it; constant factors do not count.
            axes: of the channels in ``start``.

        Returns:
            ``end``'s shape at batch 1; every element is the number of the channel that it comes from, or -1 where it
            was padded.
        """
        shape = self._shape(start)
        spread = [edge if axis in {extent % len(shape) for extent in axes} else 1 for axis, edge in enumerate(shape)]
        numbers = torch.arange(math.prod(spread), dtype=torch.float32).reshape(spread).expand(shape)
        result: Tensor = self._evaluate(end, {start: numbers})
        return result

    def channels(self, start: Node, end: Node, axes: tuple[int, ...], axis: int) -> Tensor | None:
        """Returns for every channel of a moved value the number of the source's; None where they mix along the axis.

        Args:
            start: the value whose channels are numbered, see `move`.
            end: the moved value.
            axes: of the channels in ``start``.
            axis: of the channels in ``end``.

        Returns:
            int64, as long as ``end``'s channel axis.
        """
        flat = self.move(start, end, axes).movedim(axis, 0).flatten(1)
        first = flat.amax(dim=1)
        same = (flat == first[:, None]) | (flat == _NONE)
        return first.long() if bool(same.all()) and bool((first >= 0).all()) else None

    def _evaluate(self, node: Any, values: dict[Node, Any]) -> Any:
        if not isinstance(node, Node):
            return node
        if node in values:
            return values[node]
        if node in self._known:
            return self._known[node]
        if node.target is aten.sym_size.int:
            source: Any = node.args[0]
            axis: Any = node.args[1]
            self._known[node] = self._shape(source)[axis]
            return self._known[node]
        if is_factor(node):
            return self._evaluate(node.args[0], values)
        arguments: Any = torch.fx.map_arg(tuple(node.args), lambda argument: self._evaluate(argument, values))
        if is_zero_padding(node):
            values[node] = torch.nn.functional.pad(arguments[0], arguments[1], value=_NONE)
        else:
            values[node] = node.target(*arguments, **node.kwargs)  # type: ignore[operator]
        return values[node]

    def _shape(self, node: Node) -> list[int]:
        """Returns the shape of a value at batch 1: a symbolic edge is a multiple of the batch."""
        return [edge if isinstance(edge, int) else _at_batch_one(edge) for edge in node.meta["val"].shape]


def _at_batch_one(edge: Any) -> int:
    expression = edge.node.expr
    return int(expression.subs(dict.fromkeys(expression.free_symbols, 1)))
