# SPDX-License-Identifier: Apache-2.0
"""The canonical form of a program, from which quantization starts: no operators without effect, folded layers.

Every change is exact but for two foldings, which are exact in real numbers: of batch normalizations (see
`vitedge.program.batch_norm`), and of the gains of residual branches, ``g (W x + b) = (diag(g) W) x + g b`` (LayerScale,
arXiv:2103.17239, section 2).
"""

from __future__ import annotations

import sys
from typing import Any, TypeGuard

import torch
from torch import Tensor
from torch.fx import Node

from vitedge.program.batch_norm import batch_norm_of, folds_into
from vitedge.program.editor import Editor, aten
from vitedge.program.modules import innermost_module
from vitedge.program.program import Program

_NOTHING = (aten.dropout.default, aten.contiguous.default, aten.alias.default, aten.detach.default)
"""Operators that return their first input unchanged in evaluation mode."""
_RENAMED = {
    aten.silu_.default: aten.silu.default,
    aten.relu_.default: aten.relu.default,
    aten.view.default: aten.reshape.default,
}
"""Operators to equal ones that neither write into their input nor depend on its strides."""
LAYERS = (aten.linear.default, aten.conv2d.default)
"""Operators with a weight that can be quantized."""


def canonicalize(program: Program) -> Program:
    """Brings a program that was just captured into the canonical form.

    Every Linear and every convolution has a weight and a bias of its own, named ``MODULE.weight`` and ``MODULE.bias``
    where the reference has them elsewhere; batch normalizations after a convolution and gains after a Linear are
    folded into it; dropout, copies and slices of everything are gone.

    Args:
        program: altered; its tensors are not.
    """
    editor = Editor(program.exported)
    for node in editor.calls():
        if node.target in _RENAMED:
            node.target = _RENAMED[node.target]
        elif node.target in _NOTHING or _is_whole_slice(node) or _is_no_padding(node):
            editor.replace(node, node.all_input_nodes[0])
    editor.sweep()  # only a layer with one consumer is folded below
    for node in editor.calls():
        if node.target is aten.batch_norm.default:
            _fold(editor, node)
    editor.sweep()
    for node in editor.calls():
        if node.target in LAYERS:
            _give_tensors(editor, node)
    for node in editor.calls():
        if node.target is aten.mul.Tensor:
            _fold_gain(editor, node)
    editor.finish()
    return program


def _is_whole_slice(node: Node) -> bool:
    if node.target is not aten.slice.Tensor:
        return False
    source, dim, start, end, step = _padded(node.args, (None, 0, None, None, 1))
    edge = source.meta["val"].shape[dim]
    whole = edge if isinstance(edge, int) else sys.maxsize
    last = sys.maxsize if end is None else end
    return start in (None, 0) and step == 1 and isinstance(last, int) and last >= whole


def _is_no_padding(node: Node) -> bool:
    sizes: Any = node.args[1] if node.target is aten.pad.default else [1]
    return all(isinstance(size, int) and size == 0 for size in sizes)


def _fold(editor: Editor, node: Node) -> None:
    """Folds a batch normalization into the convolution before it, where it is its only consumer."""
    convolution = folds_into(node)
    norm = None if convolution is None else batch_norm_of(node, editor.tensor)
    weight = None if convolution is None else editor.tensor(convolution.args[1])
    if convolution is None or norm is None or weight is None:
        return
    bias = editor.tensor(convolution.args[2]) if len(convolution.args) > 2 else None
    _set_arguments(editor, convolution, *norm.fold(weight, bias, torch.sqrt))
    editor.replace(node, convolution)


def _fold_gain(editor: Editor, node: Node) -> None:
    """Folds a product of a Linear's output and a vector into the Linear, where it is its only consumer."""
    linear, gain = (node.args[0], node.args[1]) if _is_linear(node.args[0]) else (node.args[1], node.args[0])
    factor = editor.tensor(gain)
    if not _is_linear(linear) or factor is None or len(linear.users) != 1:
        return
    weight, bias = (editor.tensor(part) for part in linear.args[1:3])
    if weight is None or bias is None or factor.numel() != len(weight) or factor.shape[-1] != len(weight):
        return
    wide = factor.double().flatten()
    scaled = (weight.double() * wide[:, None]).to(weight.dtype), (bias.double() * wide).to(bias.dtype)
    _set_arguments(editor, linear, *scaled)
    editor.replace(node, linear)


def _is_linear(node: Any) -> TypeGuard[Node]:
    return isinstance(node, Node) and node.target is aten.linear.default


def _give_tensors(editor: Editor, node: Node) -> None:
    """Gives a layer a weight and a bias that no other node reads."""
    weight, bias = node.args[1], node.args[2] if len(node.args) > 2 else None
    weight_value, bias_value = _constant(editor, weight), _constant(editor, bias)
    if weight_value is None:
        return  # a product of two values of the image, written as a layer
    if not all(_is_own(editor, part) for part in (weight, bias)):
        zeros = torch.zeros(weight_value.shape[0], dtype=weight_value.dtype)
        _set_arguments(editor, node, weight_value, zeros if bias_value is None else bias_value)


def _set_arguments(editor: Editor, node: Node, weight: Tensor, bias: Tensor) -> None:
    """Sets weight and bias of a layer, as tensors of its own."""
    arguments = [*node.args, *(None,) * (3 - len(node.args))]
    for position, part, value in ((1, "weight", weight), (2, "bias", bias)):
        held = arguments[position]
        if _is_own(editor, held):
            editor.set(str(editor.name(held)), value)
            continue
        name = f"{innermost_module(node)}.{part}"
        taken = name in editor.exported.state_dict
        arguments[position] = editor.add(f"{name}.of.{node.name}" if taken else name, value.contiguous())
    node.args = tuple(arguments)


def _is_own(editor: Editor, node: Any) -> bool:
    """Returns whether a node is a stored tensor with one consumer."""
    return isinstance(node, Node) and editor.name(node) is not None and len(node.users) == 1


def _constant(editor: Editor, node: Any) -> Tensor | None:
    """Returns the value of a node that does not depend on the image, or None."""
    if not isinstance(node, Node):
        return None
    tensor = editor.tensor(node)
    if tensor is not None or node.op != "call_function":
        return tensor
    values = {source: _constant(editor, source) for source in node.all_input_nodes}
    if any(value is None for value in values.values()):
        return None
    arguments, options = torch.fx.map_arg((node.args, node.kwargs), lambda source: values[source])
    result: Tensor = node.target(*arguments, **options)  # type: ignore[operator]
    return result


def _padded(arguments: Any, defaults: tuple[Any, ...]) -> tuple[Any, ...]:
    return (*arguments, *defaults[len(arguments) :])
