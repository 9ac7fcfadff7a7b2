# SPDX-License-Identifier: Apache-2.0
"""Layers with integer weights whose inputs are floats, or are quantized with a range found at run time.

ONNX Runtime multiplies float inputs with integer weights in its operator ``com.microsoft.MatMulNBits`` (4 or 8 bits, a
scale per block), which reads each block as it goes; written as ``DequantizeLinear`` and ``MatMul`` it would make a
float copy of every weight at every run. Its accuracy level 1 keeps the inputs in float32, as the program says.
Older releases have that operator for 4 bits alone (``export/onnx/oldest_runtimes.json``). For them, weights of 8 bits
are expanded by ``Cast`` and ``Mul``, which every runtime folds when it loads the file: memory and time are those of
float32. ``DequantizeLinear`` would not do: of that and ``MatMul``, ONNX Runtime from 1.26 on makes a product that
rounds its inputs to integers.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from vitedge.export.onnx.passes.graph import Graph, GraphPass, constant
from vitedge.export.onnx.passes.integers import producer_of

CONTRIB = "com.microsoft"
_CHANNEL_BLOCK = 128
"""Weights in a block where one scale serves a whole channel; the scale is repeated for each block."""
_FLOAT32 = 1
"""Accuracy level of ``MatMulNBits`` with inputs and sums in float32."""
_EIGHT_BITS = (ir.DataType.UINT8, ir.DataType.INT8)


@GraphPass
def lay_out_weights(graph: Graph) -> None:
    """Brings weights and inputs into the form in which ONNX Runtime computes them without a float copy of a weight."""
    _lay_out(graph, _pack)


@GraphPass
def lay_out_expanded_weights(graph: Graph) -> None:
    """Does the same for releases that have no such product for weights of 8 bits."""
    _lay_out(graph, _expand)


def _lay_out(graph: Graph, eight_bits: Callable[[Graph, ir.Node, ir.Node, Tensor], None]) -> None:
    """Lays out products and convolutions; the function writes a product of floats with a weight of 8 bits."""
    kept = []
    for node in list(graph.model.graph):
        if node.op_type == "MatMul":
            _lay_out_product(graph, node, eight_bits)
        elif node.op_type == "Conv" and _dequantized_bits(node.inputs[0]) != 8 and _restore_weight(graph, node):
            kept.append(node)
    if kept:
        graph.notes.append(
            f"{len(kept)} convolutions hold their rounded weights in float32, "
            "which ONNX Runtime would otherwise make of integers at every run"
        )


def _lay_out_product(
    graph: Graph, node: ir.Node, eight_bits: Callable[[Graph, ir.Node, ir.Node, Tensor], None]
) -> None:
    """Rewrites a product with an integer weight."""
    transposed = producer_of(node.inputs[1], "Transpose")
    weight = None if transposed is None else producer_of(transposed.inputs[0], "DequantizeLinear")
    integers = None if weight is None else constant(weight.inputs[0])
    if weight is None or integers is None or integers.ndim != 2:
        return
    dynamic = _dynamic_source(node.inputs[0])
    if dynamic is not None:
        _multiply_integers(graph, node, dynamic, weight)
    elif "block_size" in weight.attributes:
        _pack(graph, node, weight, integers)
    elif _dequantized_bits(node.inputs[0]) != 8:
        eight_bits(graph, node, weight, integers)


def _dequantized_bits(value: ir.Value | None) -> int | None:
    """Returns the bits of the integers that a value was dequantized from; None where it was not."""
    node = producer_of(value, "DequantizeLinear")
    held = None if node is None else node.inputs[0]
    zero_point = None if node is None or len(node.inputs) < 3 else node.inputs[2]
    kind = next((entry.dtype for entry in (zero_point, held) if entry is not None and entry.dtype is not None), None)
    return None if kind is None else 8 if kind in _EIGHT_BITS else 16


def _pack(graph: Graph, node: ir.Node, weight: ir.Node, integers: Tensor) -> None:
    """Writes a product as ``MatMulNBits``: ``(out, blocks, bytes)``, the lower half first, zero in the middle."""
    scales = constant(weight.inputs[1])
    if scales is None:
        return
    blocked = "block_size" in weight.attributes
    bits, block = (4, weight.attributes["block_size"].as_int()) if blocked else (8, _CHANNEL_BLOCK)
    out, elements = integers.shape
    blocks = -(-elements // block)
    unsigned = torch.full((out, blocks * block), 2 ** (bits - 1), dtype=torch.uint8)
    unsigned[:, :elements] = (integers.to(torch.int16) + 2 ** (bits - 1)).to(torch.uint8)
    if bits == 4:
        unsigned = unsigned[:, 0::2] | (unsigned[:, 1::2] << 4)
    stored = graph.add_constant(str(weight.inputs[0].name), unsigned.reshape(out, blocks, -1))  # type: ignore[union-attr]
    spread = scales.reshape(out, -1).expand(out, blocks).reshape(-1).contiguous()
    inputs = [node.inputs[0], stored, graph.add_constant(f"{stored.name}_scale", spread)]
    attributes = {"K": elements, "N": out, "bits": bits, "block_size": block, "accuracy_level": _FLOAT32}
    graph.model.opset_imports[CONTRIB] = 1
    _replace(graph, node, ir.Node(CONTRIB, "MatMulNBits", inputs, ir.convenience.convert_attributes(attributes)))


def _expand(graph: Graph, node: ir.Node, weight: ir.Node, integers: Tensor) -> None:
    """Writes the weight of a product as integers ``(in, out)`` that are cast and scaled."""
    scales, given = constant(weight.inputs[1]), weight.outputs[0]
    if scales is None:
        return
    stored = graph.add_constant(str(weight.inputs[0].name), integers.T.contiguous())  # type: ignore[union-attr]
    real = graph.emit(node, "Cast", [stored], {"to": int(ir.DataType.FLOAT)}, like=given)
    spread = graph.add_constant(f"{stored.name}_scale", scales)
    scaled = graph.emit(node, "Mul", [real, spread], {}, like=given)
    real.shape = scaled.shape = stored.shape
    node.replace_input_with(1, scaled)
    _scale_by_channel(graph, node, integers.shape[1], axis=-1)


def _dynamic_source(value: ir.Value | None) -> ir.Node | None:
    """Returns the ``DynamicQuantizeLinear`` whose integers a value was dequantized from, or None."""
    real = producer_of(value, "DequantizeLinear")
    rounded = None if real is None else producer_of(real.inputs[0], "QuantizeLinear")
    return None if rounded is None else producer_of(rounded.inputs[1], "DynamicQuantizeLinear")


def _multiply_integers(graph: Graph, node: ir.Node, source: ir.Node, weight: ir.Node) -> None:
    """Writes a product as one of integers and a scale, which ONNX Runtime joins with the rounding of the input."""
    integers, scales = constant(weight.inputs[0]), constant(weight.inputs[1])
    if integers is None or scales is None:
        return
    result = node.outputs[0]
    stored = graph.add_constant(str(weight.inputs[0].name), integers.T.contiguous())  # type: ignore[union-attr]
    zero = graph.add_constant(f"{stored.name}_zero_point", torch.zeros((), dtype=torch.int8))
    rounded, scale, zero_point = source.outputs
    product = graph.emit(node, "MatMulInteger", [rounded, stored, zero_point, zero], {}, like=result)
    product.type = ir.TensorType(ir.DataType.INT32)
    real = graph.emit(node, "Cast", [product], {"to": int(ir.DataType.FLOAT)}, like=result)
    held = graph.add_constant(f"{stored.name}_scale", scales)
    joint = graph.emit(node, "Mul", [scale, held], {}, like=held)
    graph.replace(result, graph.emit(node, "Mul", [real, joint], {}, like=result))


def _restore_weight(graph: Graph, node: ir.Node) -> bool:
    """Gives a convolution over floats its rounded weight as floats."""
    weight = producer_of(node.inputs[1], "DequantizeLinear")
    integers = None if weight is None else constant(weight.inputs[0])
    scales = None if weight is None else constant(weight.inputs[1])
    if weight is None or integers is None or scales is None:
        return False
    shape = [-1] + [1] * (integers.ndim - 1)
    name = str(weight.inputs[0].name)  # type: ignore[union-attr]
    node.replace_input_with(1, graph.add_constant(name, integers.to(torch.float32) * scales.reshape(shape)))
    _scale_by_channel(graph, node, integers.shape[1] * node.attributes["group"].as_int(), axis=1)
    return True


def _scale_by_channel(graph: Graph, node: ir.Node, channels: int, axis: int) -> None:
    """Dequantizes what a convolution or a product reads by as many equal scales as there are channels.

    One of float weights between integers with one scale each has its weight rounded by ONNX Runtime, to 8
    bits with one scale for all channels (``WeightBiasQuantization``, microsoft/onnxruntime#22969).
    """
    given = node.inputs[0]
    real = producer_of(given, "DequantizeLinear")
    if given is None or real is None or real.inputs[0] is None:
        return
    spread = []
    for value in real.inputs[1:]:
        number = constant(value)
        if value is None or number is None:
            return
        spread.append(graph.add_constant(str(value.name), torch.from_numpy(np.full(channels, number.numpy()))))
    held = graph.emit(node, "DequantizeLinear", [real.inputs[0], *spread], {"axis": axis}, like=given)
    node.replace_input_with(0, held)


def _replace(graph: Graph, old: ir.Node, new: ir.Node) -> None:
    new.meta.update(old.meta)
    graph.model.graph.insert_before(old, new)
    new.outputs[0].type, new.outputs[0].shape = old.outputs[0].type, old.outputs[0].shape
    graph.replace(old.outputs[0], new.outputs[0])
