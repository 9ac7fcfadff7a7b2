# SPDX-License-Identifier: Apache-2.0
"""Normalizations whose channels can be scaled: LayerNorm and GroupNorm, read directly or after a spatial average."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor
from torch.fx import Node

from vitedge.program.editor import Editor, aten
from vitedge.program.modules import innermost_module
from vitedge.program.structure import Layer, Norm, Structure
from vitedge.program.tracing import Tracer, is_zero_padding, moved_from, readers

_AVERAGES = (aten.mean.dim, aten.adaptive_avg_pool2d.default)
_AXES: dict[Any, int] = {aten.layer_norm.default: -1, aten.group_norm.default: 1}
"""Normalization to the axis of its channels."""
_Found = list[tuple[Layer, Tensor]]


def scalable_norms(structure: Structure) -> tuple[Norm, ...]:
    """Returns the normalizations that only layers read, directly or after an average, in order of execution.

    An average over positions does not mix channels, and ``mean((x - m) / s) = (mean(x) - m) / s``.

    Args:
        structure: of a canonical program.
    """
    editor = structure.editor
    known = {norm.node: norm for norm in structure.norms}
    layers = {layer.node: layer for layer in structure.layers}
    tracer = Tracer(editor)
    found = []
    for node in editor.calls():
        if node.target in _AXES:
            norm = known.get(node) or _norm(editor, tracer, node, layers)
            if norm is not None and _is_own(norm, editor):
                found.append(norm)
    return tuple(found)


def _is_own(norm: Norm, editor: Editor) -> bool:
    """Returns whether no other normalization has the same tensors."""
    names = (norm.weight, norm.bias)
    return all(len(node.users) == 1 for node in norm.node.all_input_nodes if editor.name(node) in names)


def _norm(editor: Editor, tracer: Tracer, node: Node, layers: dict[Node, Layer]) -> Norm | None:
    arguments: Any = node.args
    weight = editor.name(arguments[2]) if len(arguments) > 2 else None
    bias = editor.name(arguments[3]) if len(arguments) > 3 else None
    if weight is None or bias is None or (node.target is aten.layer_norm.default and len(arguments[1]) != 1):
        return None
    found = _reach(tracer, node, _AXES[node.target], layers)
    if not found:
        return None
    reached, columns = zip(*found, strict=True)
    norm = Norm(innermost_module(node), node, weight, bias, reached, columns, padded=False)
    return replace(norm, padded=any(is_padded(layer) for layer in reached))


def is_padded(layer: Layer) -> bool:
    """Returns whether a layer's input is padded with zeros, by the layer itself or before it."""
    padding: Any = layer.node.args[4] if layer.kind != "linear" and len(layer.node.args) > 4 else [0]
    return any(padding) or any(is_zero_padding(step) for step in moved_from(layer.input))


def _reach(tracer: Tracer, node: Node, axis: int, layers: dict[Node, Layer]) -> _Found | None:
    """Returns the layers that read a value, each with the value's channel of every input channel.

    None where something other than a layer reads it, or nothing does.
    """
    found: _Found = []
    for user, value in readers(node) or []:
        layer = layers.get(user)
        below = None
        if layer is not None and layer.groups == 1 and layer.input is value:
            columns = tracer.channels(node, value, (axis,), layer.channel_axis)
            below = None if columns is None else [(layer, columns)]
        elif user.target in _AVERAGES and not any(is_zero_padding(step) for step in moved_from(value)):
            below = _behind(tracer, node, axis, (user, value), layers)
        if below is None:
            return None
        found.extend(below)
    return found or None


def _behind(
    tracer: Tracer, node: Node, axis: int, average: tuple[Node, Node], layers: dict[Node, Layer]
) -> _Found | None:
    """Returns the same for the layers that read an average of the value."""
    user, value = average
    edges = len(value.meta["val"].shape)
    averaged, kept = _axes(user, edges)
    for candidate in (edges - 1, 1):
        columns = None if candidate in averaged else tracer.channels(node, value, (axis,), candidate)
        if columns is not None:
            place = candidate if kept else candidate - sum(axis < candidate for axis in averaged)
            below = _reach(tracer, user, place, layers)
            return None if below is None else [(layer, columns[numbers]) for layer, numbers in below]
    return None


def _axes(average: Node, edges: int) -> tuple[set[int], bool]:
    """Returns the axes that are averaged over, and whether they are kept with size 1."""
    if average.target is not aten.mean.dim:
        return {edges - 2, edges - 1}, True
    arguments: Any = average.args
    return {axis % edges for axis in arguments[1]}, bool(arguments[2:3] and arguments[2])
