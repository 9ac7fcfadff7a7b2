# SPDX-License-Identifier: Apache-2.0
"""The structure of a canonical program: the layers, normalizations and attentions that quantization deals with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeGuard

from torch import Tensor
from torch.fx import Node

from vitedge.program.canonical import LAYERS
from vitedge.program.editor import Editor, aten
from vitedge.program.modules import innermost_module
from vitedge.program.program import Program
from vitedge.program.tracing import MOVEMENT, Tracer, is_factor, is_zero_padding, moved_from, readers, source_of

_BIAS = (aten.add.Tensor, aten.sub.Tensor)


@dataclass(frozen=True, eq=False)
class Layer:
    """A Linear or a convolution."""

    name: str
    """Name of the module that holds its weight; with the node's name where several layers share one."""
    kind: str
    """``linear``, ``conv`` or ``depthwise``."""
    node: Node
    weight: str
    """Name of its weight: ``(out, in)`` or ``(out, in / groups, height, width)``."""
    bias: str
    """Name of its bias, ``(out,)``."""
    groups: int = 1

    @property
    def input(self) -> Node:
        """Its input: channels last for a Linear, first after the batch for a convolution."""
        value: Any = self.node.args[0]
        return value  # type: ignore[no-any-return]

    @property
    def source(self) -> Node:
        """The node that computes its input, before any data movement."""
        return source_of(self.input)

    @property
    def channel_axis(self) -> int:
        """Axis of the channels in its input and in its output."""
        return -1 if self.kind == "linear" else 1


@dataclass(frozen=True, eq=False)
class Norm:
    """A LayerNorm over the last axis that only layers read: a scale of its channels can be folded into those."""

    name: str
    node: Node
    weight: str
    bias: str
    readers: tuple[Layer, ...]
    columns: tuple[Tensor, ...]
    """For each reader, the number of the norm's channel that each of its input channels is, int64."""
    padded: bool
    """Whether zeros are padded between it and its consumers: then its channels may be scaled, but not shifted."""


@dataclass(frozen=True, eq=False)
class Operand:
    """Query, key or value of an attention: some output channels of a layer."""

    layer: Layer
    rows: Tensor
    """``(heads, dim)``, int64: the output channel of the layer."""


@dataclass(frozen=True, eq=False)
class Attention:
    """Softmax of scaled products of queries and keys, times values."""

    name: str
    node: Node
    """``scaled_dot_product_attention``, or the softmax where the products are written out."""
    heads: int
    dim: int
    tokens: int
    masked: bool
    query: Operand | None
    key: Operand | None
    value: Operand | None
    """Each is None where more than data movement and a constant factor precedes it, such as a normalization."""
    output: Layer | None
    """The layer that reads the result."""
    columns: Tensor | None
    """For each input channel of that layer, the number of the value's output channel, ``head * dim + position``."""


@dataclass(frozen=True, eq=False)
class Structure:
    """The parts of one canonical program, in order of execution."""

    program: Program
    editor: Editor
    layers: tuple[Layer, ...]
    norms: tuple[Norm, ...]
    attentions: tuple[Attention, ...]

    def layer(self, name: str) -> Layer:
        """Returns the layer of that name."""
        return next(layer for layer in self.layers if layer.name == name)


def find_structure(program: Program) -> Structure:
    """Finds the parts of a program.

    Args:
        program: canonical; see `vitedge.program.canonical`.
    """
    editor = Editor(program.exported)
    layers = {layer.node: layer for layer in _layers(editor)}
    tracer = Tracer(editor)
    calls = editor.calls()
    norms = (_norm(editor, tracer, node, layers) for node in calls if node.target is aten.layer_norm.default)
    attentions = (_attention(tracer, node, layers) for node in calls if node.target in _ATTENTIONS)
    return Structure(
        program,
        editor,
        tuple(layers.values()),
        tuple(norm for norm in norms if norm is not None),
        tuple(attention for attention in attentions if attention is not None),
    )


def _layers(editor: Editor) -> list[Layer]:
    found: list[Layer] = []
    for node in editor.calls():
        weight = editor.name(node.args[1]) if node.target in LAYERS else None
        bias = editor.name(node.args[2]) if weight is not None and len(node.args) > 2 else None
        if weight is None or bias is None:
            continue
        name = weight.removesuffix(".weight") if weight.endswith(".weight") else innermost_module(node)
        if any(layer.name == name for layer in found):
            name = f"{name}.{node.name}"
        groups: Any = node.args[6] if len(node.args) > 6 else 1
        found.append(Layer(name, _kind(node, groups), node, weight, bias, groups))
    return found


def _kind(node: Node, groups: int) -> str:
    if node.target is aten.linear.default:
        return "linear"
    return "depthwise" if groups > 1 and groups == node.args[0].meta["val"].shape[1] else "conv"  # type: ignore[union-attr]


def _norm(editor: Editor, tracer: Tracer, node: Node, layers: dict[Node, Layer]) -> Norm | None:
    arguments: Any = node.args
    weight = editor.name(arguments[2]) if len(arguments) > 2 else None
    bias = editor.name(arguments[3]) if len(arguments) > 3 else None
    reading = readers(node)
    if weight is None or bias is None or len(arguments[1]) != 1 or not reading:
        return None
    found, columns = [], []
    for reader, value in reading:
        layer = layers.get(reader)
        if layer is None or layer.kind == "depthwise" or layer.groups != 1 or layer.input is not value:
            return None
        column = tracer.channels(node, value, (-1,), layer.channel_axis)
        if column is None:
            return None
        found.append(layer)
        columns.append(column)
    padded = any(is_zero_padding(step) for layer in found for step in moved_from(layer.input)) or any(
        layer.kind != "linear" and any(_edges(layer.node)) for layer in found
    )
    return Norm(innermost_module(node), node, weight, bias, tuple(found), tuple(columns), padded)


def _edges(node: Node) -> list[int]:
    """Returns the padding of a convolution."""
    padding: Any = node.args[4] if len(node.args) > 4 else [0]
    return list(padding)


_ATTENTIONS = (aten.scaled_dot_product_attention.default, aten.softmax.int)


def _attention(tracer: Tracer, node: Node, layers: dict[Node, Layer]) -> Attention | None:
    parts = _fused(node) if node.target is _ATTENTIONS[0] else _written_out(node)
    if parts is None:
        return None
    (query, key, value), result, masked = parts
    shape = value.meta["val"].shape
    if len(shape) < 3 or not isinstance(shape[-2], int):
        return None
    heads, tokens, dim = int(shape[-3]), int(shape[-2]), int(shape[-1])
    output, columns = _output(tracer, result, layers)
    name = innermost_module(node)
    name = name.removesuffix(".softmax") if node.target is aten.softmax.int else name
    return Attention(
        name,
        node,
        heads,
        dim,
        tokens,
        masked,
        _operand(tracer, query, layers),
        _operand(tracer, key, layers),
        _operand(tracer, value, layers),
        output,
        columns,
    )


def _fused(node: Node) -> tuple[tuple[Any, Any, Any], Node, bool] | None:
    arguments: Any = node.args
    return arguments[:3], node, len(arguments) > 3 and arguments[3] is not None


def _written_out(node: Node) -> tuple[tuple[Any, Any, Any], Node, bool] | None:
    """Returns the operands of the two products around a softmax, the result and whether there is a mask."""
    found = products(node)
    if found is None:
        return None
    query, key = found.scores.args
    return (query, key, found.result.args[1]), found.result, found.masked


@dataclass(frozen=True, eq=False)
class Products:
    """The two products around a softmax."""

    scores: Node
    """Queries by keys."""
    result: Node
    """Probabilities by values."""
    probabilities: Node
    """The softmax as the second product takes it."""
    masked: bool
    """Whether something is added to the scores."""


def products(softmax: Node) -> Products | None:
    """Returns the products around a softmax; None where it is not that of an attention."""
    scores: Any = softmax.args[0]
    masked = False
    while isinstance(scores, Node) and (scores.target in _BIAS or scores.target in MOVEMENT or is_factor(scores)):
        masked |= scores.target in _BIAS
        scores = scores.args[0]
    reading = readers(softmax) or []
    if len(reading) != 1 or not (_is_product(scores) and _is_product(reading[0][0])):
        return None
    return Products(scores, *reading[0], masked)


def _is_product(node: Any) -> TypeGuard[Node]:
    return isinstance(node, Node) and node.target is aten.matmul.default


def _operand(tracer: Tracer, node: Any, layers: dict[Node, Layer]) -> Operand | None:
    """Returns the layer and output channels of an operand; a key may come with its last two axes exchanged."""
    origin = node
    while isinstance(origin, Node) and (origin.target in MOVEMENT or is_factor(origin)):
        origin = origin.args[0]
    layer = layers.get(origin)
    if layer is None:
        return None
    moved = tracer.move(layer.node, node, (layer.channel_axis,))
    numbers = moved.reshape(-1, *moved.shape[-3:])
    for axis in (-2, -1):
        rows = numbers[0].select(axis, 0)
        if bool((numbers == rows.unsqueeze(axis)).all()):
            return Operand(layer, rows.long())
    return None


def _output(tracer: Tracer, result: Node, layers: dict[Node, Layer]) -> tuple[Layer | None, Tensor | None]:
    """Returns the layer that reads the result of an attention, and the value's channel of each of its inputs."""
    reading = readers(result) or []
    layer = layers.get(reading[0][0]) if len(reading) == 1 else None
    if layer is None:
        return None, None
    return layer, tracer.channels(result, layer.input, (-3, -1), layer.channel_axis)
