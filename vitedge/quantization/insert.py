# SPDX-License-Identifier: Apache-2.0
"""Inserts a plan into a program: quantize and dequantize nodes, and weights as integers.

The nodes are the operators ``quantized_decomposed`` that PyTorch's own export quantization writes, so that a tool that
reads its programs reads these. They are put in here and not by ``prepare_pt2e`` and ``convert_pt2e``, which return a
module whose weights have numbers for names and which has to be captured again; see ``docs/decisions``.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from vitedge.program.attention import attention_scale
from vitedge.program.editor import Editor, aten
from vitedge.program.program import Program
from vitedge.program.qdq import (
    CHOOSE,
    DEQUANTIZE,
    DEQUANTIZE_BLOCKS,
    DEQUANTIZE_CHANNELS,
    DEQUANTIZE_TENSOR,
    QUANTIZE,
    QUANTIZE_TENSOR,
)
from vitedge.program.structure import Attention, Layer, find_structure, products
from vitedge.quantization.parameters import QuantizationParameters
from vitedge.quantization.plan import Plan

_EPSILON = 1.1920928955078125e-07
"""Smallest scale of a dynamic quantization: the distance from 1 to the next float32 number."""


QuantizedValue = tuple[Node, str, float, int]
"""A value with the integer type, scale and zero point that it is quantized with."""


def insert(program: Program, plan: Plan) -> Program:
    """Turns a canonical program into the quantized one and returns it.

    Args:
        program: canonical, see `vitedge.program.canonical`; its graph is altered in place, its tensors are replaced.
        plan: what to insert; layers and attentions that it does not name stay in float.
    """
    structure = find_structure(program)
    editor = structure.editor
    for name, tensor in plan.tensors.items():
        editor.set(name, tensor)
    for attention in structure.attentions:
        if attention.name in plan.attention:
            _quantize_attention(editor, attention, plan.attention[attention.name])
    quantized: dict[QuantizedValue, Node] = {}
    for layer in structure.layers:
        if layer.name in plan.shifts:
            layer.node.replace_input_with(layer.input, _shifted(editor, layer, plan.shifts[layer.name]))
        if layer.name in plan.inputs:
            _quantize_input(editor, layer, plan.inputs[layer.name], quantized)
        elif layer.name in plan.dynamic:
            _quantize_dynamically(editor, layer, quantized)
        if layer.name in plan.weights:
            read = plan.inputs.get(layer.name) if plan.integer_biases else None
            _quantize_weight(editor, layer, *plan.weights[layer.name], read)
    editor.finish()
    return program


def _shifted(editor: Editor, layer: Layer, shift: float) -> Node:
    return editor.call(aten.sub.Tensor, (layer.input, shift), layer.node)


def _quantize_input(
    editor: Editor, layer: Layer, qparams: QuantizationParameters, known: dict[QuantizedValue, Node]
) -> None:
    """Quantizes a layer's input; layers that read the same node share the quantize and dequantize nodes."""
    value, key = layer.input, (layer.input, qparams.dtype, float(qparams.scale), int(qparams.zero_point))
    if key not in known:
        known[key] = _rounded(editor, value, qparams, layer.node)
    layer.node.replace_input_with(value, known[key])


def _rounded(editor: Editor, value: Node, qparams: QuantizationParameters, before: Node) -> Node:
    arguments = (float(qparams.scale), int(qparams.zero_point), *qparams.ends, qparams.storage)
    return editor.call(DEQUANTIZE, (editor.call(QUANTIZE, (value, *arguments), before), *arguments), before)


def _quantize_dynamically(editor: Editor, layer: Layer, known: dict[QuantizedValue, Node]) -> None:
    """Quantizes a layer's input to 256 levels between its own extremes, which always enclose zero.

    ``DynamicQuantizeLinear`` of ONNX computes the same.
    """
    value, key = layer.input, (layer.input, "dynamic", 0.0, 0)
    if key not in known:
        ends = (0, 255, torch.uint8)
        chosen = editor.call(CHOOSE, (value, 0, 255, _EPSILON, torch.uint8), layer.node)
        scale = editor.call(operator.getitem, (chosen, 0), layer.node)
        zero_point = editor.call(operator.getitem, (chosen, 1), layer.node)
        integers = editor.call(QUANTIZE_TENSOR, (value, scale, zero_point, *ends), layer.node)
        known[key] = editor.call(DEQUANTIZE_TENSOR, (integers, scale, zero_point, *ends), layer.node)
    layer.node.replace_input_with(value, known[key])


def _quantize_weight(
    editor: Editor,
    layer: Layer,
    integers: Tensor,
    qparams: QuantizationParameters,
    read: QuantizationParameters | None,
) -> None:
    """Stores a weight as integers, and the bias too where the input has parameters ``read`` to share its unit."""
    node = layer.node
    editor.set(layer.weight, integers)
    weight: Any = node.args[1]
    if qparams.block is None:
        dequantized = _dequantized(editor, layer.weight, weight, qparams, node)
    else:
        scale = editor.add(f"{layer.weight}_scale", qparams.scale)
        zero_point = editor.add(f"{layer.weight}_zero_point", qparams.zero_point)
        arguments = (weight, scale, zero_point, *qparams.ends, qparams.storage, qparams.block, torch.float32)
        dequantized = editor.call(DEQUANTIZE_BLOCKS, arguments, node)
    node.replace_input_with(weight, dequantized)
    if read is not None and qparams.block is None and read.dtype in ("uint8", "int8"):
        _quantize_bias(editor, layer, read.scale * qparams.scale)


def _quantize_bias(editor: Editor, layer: Layer, scale: Tensor) -> None:
    """Stores the bias as int32 in the unit of the products, as runtimes add it (arXiv:1712.05877, section 2.4)."""
    bias: Any = layer.node.args[2]
    # In float64: the quotient has more digits than float32 holds.
    integers = torch.round(editor.value(layer.bias).double() / scale.double())
    qparams = QuantizationParameters("int32", scale, torch.zeros_like(scale, dtype=torch.int32), axis=0)
    if bool((integers.abs() > qparams.ends[1]).any()):
        return  # the unit is too small for the bias to fit int32; it stays in float32
    editor.set(layer.bias, integers.to(torch.int32))
    layer.node.replace_input_with(bias, _dequantized(editor, layer.bias, bias, qparams, layer.node))


def _dequantized(editor: Editor, name: str, integers: Node, qparams: QuantizationParameters, before: Node) -> Node:
    scale = editor.add(f"{name}_scale", qparams.scale)
    zero_point = editor.add(f"{name}_zero_point", qparams.zero_point)
    arguments = (integers, scale, zero_point, qparams.axis, *qparams.ends, qparams.storage)
    return editor.call(DEQUANTIZE_CHANNELS, arguments, before)


def _quantize_attention(editor: Editor, attention: Attention, qparams: dict[str, QuantizationParameters]) -> None:
    """Quantizes the operands of both products of an attention; one fused operator is first replaced by its parts."""
    softmax = attention.node
    if softmax.target is aten.scaled_dot_product_attention.default:
        softmax = _write_out(editor, softmax)
    found = products(softmax)
    if found is None:
        raise ValueError(f"{attention.name} is no attention")
    operands: dict[str, tuple[Node, Any]] = {
        "query": (found.scores, found.scores.args[0]),
        "key": (found.scores, found.scores.args[1]),
        "probabilities": (found.result, found.probabilities),
        "value": (found.result, found.result.args[1]),
    }
    for name, (product, value) in operands.items():
        if name in qparams:
            product.replace_input_with(value, _rounded(editor, value, qparams[name], product))


def _write_out(editor: Editor, node: Node) -> Node:
    """Replaces a fused attention by products and a softmax, and returns the softmax.

    The query is scaled, not the scores: TensorRT fuses that form.
    """
    arguments: Any = node.args
    query, key, value = arguments[:3]
    mask = arguments[3] if len(arguments) > 3 else None
    scale: Any = node.kwargs.get("scale")
    factor = attention_scale(int(query.meta["val"].shape[-1]), scale)
    scaled = editor.call(aten.mul.Tensor, (query, factor), node)
    transposed = editor.call(aten.transpose.int, (key, -2, -1), node)
    scores = editor.call(aten.matmul.default, (scaled, transposed), node)
    if mask is not None:
        scores = editor.call(aten.add.Tensor, (scores, mask), node)
    softmax = editor.call(aten.softmax.int, (scores, -1), node)
    editor.replace(node, editor.call(aten.matmul.default, (softmax, value), node))
    return softmax
