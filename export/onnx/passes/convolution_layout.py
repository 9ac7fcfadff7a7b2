# SPDX-License-Identifier: Apache-2.0
"""Convolutions over integers as products of matrices, with the channels last.

ONNX Runtime computes a convolution of integers only where its result is rounded again; a product of matrices of
integers has a result in float. A convolution is such a product over the pixels under its kernel (the lowering to a
matrix product of Chellapilla et al., 2006, "im2col"), which are gathered as bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import onnx_ir as ir
import torch

from vitedge.export.onnx.passes.graph import Graph, GraphPass, attributes_of, constant, input_of
from vitedge.export.onnx.passes.integers import producer_of, qparams_of
from vitedge.export.onnx.passes.movement import dims, order_of, reshape, transpose

CHANNELS_LAST, CHANNELS_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
_ELEMENTWISE = ("Sigmoid", "Mul", "Add", "QuantizeLinear")
_LARGEST_KERNEL = 5
"""Edge of the largest kernel whose pixels are gathered one by one."""


@dataclass(frozen=True)
class _Convolution:
    """A convolution over integers: its operands and geometry."""

    node: ir.Node
    input: ir.Node
    """Dequantizes ``(batch, channels, height, width)``."""
    weight: torch.Tensor
    """Integers, ``(out, channels, height, width)``."""
    batch: int | None
    kernel: tuple[int, int]
    stride: tuple[int, int]
    pads: tuple[int, ...]
    out: tuple[int, int]
    """Height and width of the result."""

    @property
    def cells(self) -> bool:
        """Whether the kernel is made of whole cells that the stride cuts the image into."""
        return self.stride != (1, 1) and all(k % s == 0 for k, s in zip(self.kernel, self.stride, strict=True))


@GraphPass
def convolutions_as_products(graph: Graph) -> None:
    """Replaces convolutions over integers by products; the others keep their rounding and get a weight in float."""
    for node in [node for node in graph.model.graph if node.op_type == "Conv"]:
        convolution = _convolution(node)
        if convolution is not None:
            _replace(graph, convolution)
        elif producer_of(node.inputs[1], "DequantizeLinear") is not None:
            for position in range(1, len(node.inputs)):
                _dequantize_once(graph, node, position)


def _convolution(node: ir.Node) -> _Convolution | None:
    """Returns the convolution, if it is over integers and can become a product."""
    source, weight = (producer_of(value, "DequantizeLinear") for value in node.inputs[:2])
    integers = None if weight is None else constant(weight.inputs[0])
    if source is None or integers is None:
        return None
    shape, out = dims(source.inputs[0]), dims(node.outputs[0])
    if shape is None or out is None or out[2] is None or out[3] is None or None in shape[1:]:
        return None
    kernel, stride = (tuple(node.attributes[name].as_ints()) for name in ("kernel_shape", "strides"))
    pads = tuple(node.attributes["pads"].as_ints())
    found = _Convolution(
        node, source, integers, shape[0], (kernel[0], kernel[1]), (stride[0], stride[1]), pads, (out[2], out[3])
    )
    dense = node.attributes["group"].as_int() == 1 and set(node.attributes["dilations"].as_ints()) == {1}
    return found if dense and (found.cells or max(kernel) <= _LARGEST_KERNEL) else None


def _replace(graph: Graph, convolution: _Convolution) -> None:
    node = convolution.node
    zero_point = qparams_of(convolution.input)[-1]
    integers = convolution.input.inputs[0]
    if integers is None:
        raise ValueError("a convolution of nothing")
    if convolution.cells and not _is_free(integers, {}):
        columns, weight = _cells_of_image(graph, convolution, integers, zero_point)
    else:
        pixels = _channels_last(graph, node, integers)
        columns, weight = _gathered(graph, convolution, pixels, zero_point)
    result = _product(graph, convolution, columns, weight)
    graph.replace(node.outputs[0], transpose(graph, node, result, CHANNELS_FIRST))


def _product(graph: Graph, convolution: _Convolution, columns: ir.Value, weight: torch.Tensor) -> ir.Value:
    """``columns @ weight + bias``, dequantized as the convolution was."""
    node = convolution.node
    scales = producer_of(node.inputs[1], "DequantizeLinear")
    if scales is None:
        raise ValueError("a weight that is not quantized")
    real = graph.emit(node, "DequantizeLinear", [columns, *qparams_of(convolution.input)], {}, like=node.outputs[0])
    real.shape = columns.shape
    stored = graph.add_constant(str(scales.inputs[0].name if scales.inputs[0] else ""), weight)
    matrix = graph.emit(node, "DequantizeLinear", [stored, *qparams_of(scales)], {"axis": 1}, like=node.outputs[0])
    matrix.shape = stored.shape
    result = graph.emit(node, "MatMul", [real, matrix], {}, like=node.outputs[0])
    result.shape = ir.Shape([convolution.batch, *convolution.out, weight.shape[1]])
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        shape = result.shape
        result = graph.emit(node, "Add", [result, node.inputs[2]], {}, like=node.outputs[0])
        result.shape = shape
    return result


def _gathered(
    graph: Graph, convolution: _Convolution, pixels: ir.Value, zero_point: ir.Value
) -> tuple[ir.Value, torch.Tensor]:
    """Returns the pixels under the kernel, ``(batch, height, width, pixels * channels)``, and the weight matrix."""
    node, (height, width) = convolution.node, convolution.kernel
    weight = convolution.weight.permute(2, 3, 1, 0).flatten(0, 2)
    pixels = _padded(graph, convolution, pixels, zero_point, spatial=1)
    places = [(y, x) for y in range(height) for x in range(width)]
    return _joined(graph, node, pixels, places, convolution.stride, convolution.out), weight


def _cells_of_image(
    graph: Graph, convolution: _Convolution, integers: ir.Value, zero_point: ir.Value
) -> tuple[ir.Value, torch.Tensor]:
    """Returns the same for an image with channels first that the stride cuts into the cells of kernels."""
    node, (rows, columns) = convolution.node, convolution.stride
    across = [kernel // stride for kernel, stride in zip(convolution.kernel, convolution.stride, strict=True)]
    out, channels = convolution.weight.shape[:2]
    weight = convolution.weight.reshape(out, channels, across[0], rows, across[1], columns)
    weight = weight.permute(2, 4, 1, 3, 5, 0).flatten(0, 4)
    image = _padded(graph, convolution, integers, zero_point, spatial=2)
    cells = [edge + count - 1 for edge, count in zip(convolution.out, across, strict=True)]
    covered = (cells[0] * rows, cells[1] * columns)
    image = _cut(graph, node, image, _Region((0, 0), covered), first=2)
    split = reshape(graph, node, image, (convolution.batch, channels, cells[0], rows, cells[1], columns))
    transposed = transpose(graph, node, split, (0, 2, 4, 1, 3, 5))
    flat = reshape(graph, node, transposed, (convolution.batch, cells[0], cells[1], channels * rows * columns))
    places = [(y, x) for y in range(across[0]) for x in range(across[1])]
    return _joined(graph, node, flat, places, (1, 1), convolution.out), weight


def _joined(
    graph: Graph,
    node: ir.Node,
    pixels: ir.Value,
    places: Sequence[tuple[int, int]],
    stride: tuple[int, int],
    out: tuple[int, int],
) -> ir.Value:
    """Returns the image shifted by every position under the kernel, joined along the channels."""
    shape = dims(pixels) or ()
    parts = [_cut(graph, node, pixels, _Region(place, out, stride), first=1) for place in places]
    if len(parts) == 1:
        return parts[0]
    joined = graph.emit(node, "Concat", parts, {"axis": 3}, like=pixels)
    joined.shape = ir.Shape([shape[0], *out, len(parts) * (shape[3] or 0)])
    return joined


class _Region(NamedTuple):
    """A range of height and width."""

    start: tuple[int, int]
    size: tuple[int, int]
    stride: tuple[int, int] = (1, 1)


def _cut(graph: Graph, node: ir.Node, value: ir.Value, region: _Region, *, first: int) -> ir.Value:
    """Returns a region of an image whose height is axis ``first``; the value itself where that is all of it."""
    start, size, stride = region
    shape = dims(value) or ()
    if start == (0, 0) and shape[first : first + 2] == size and stride == (1, 1):
        return value
    ends = [begin + (edge - 1) * step + 1 for begin, edge, step in zip(start, size, stride, strict=True)]
    bounds = [graph.add_constant("bound", torch.tensor(entry)) for entry in (start, ends, (first, first + 1), stride)]
    result = graph.emit(node, "Slice", [value, *bounds], {}, like=value)
    result.shape = ir.Shape([*shape[:first], *size, *shape[first + 2 :]])
    return result


def _padded(
    graph: Graph, convolution: _Convolution, value: ir.Value, zero_point: ir.Value, *, spatial: int
) -> ir.Value:
    """Returns the image padded with zero points, which stand for zero."""
    if not any(convolution.pads):
        return value
    top, left, bottom, right = convolution.pads
    shape = list(dims(value) or ())
    before, after = [0] * 4, [0] * 4
    before[spatial : spatial + 2], after[spatial : spatial + 2] = (top, left), (bottom, right)
    sizes = graph.add_constant("pads", torch.tensor(before + after))
    result = graph.emit(convolution.node, "Pad", [value, sizes, zero_point], {}, like=value)
    grown = [None if edge is None else edge + b + a for edge, b, a in zip(shape, before, after, strict=True)]
    result.shape = ir.Shape(grown)
    return result


def _is_free(value: ir.Value | None, known: dict[ir.Value, bool]) -> bool:
    """Returns whether a value has its channels last already, before elementwise operators at most."""
    node = None if value is None else value.producer()
    if node is None or value is None:
        return False
    if value not in known:
        inputs = [source for source in node.inputs if constant(source) is None]
        if node.op_type == "Transpose":
            known[value] = order_of(node) == CHANNELS_FIRST
        elif node.op_type == "Concat" and node.attributes["axis"].as_int() == 1:
            known[value] = any(_is_free(source, known) for source in inputs)
        else:
            scalar = all(tensor.numel() == 1 for tensor in map(constant, node.inputs) if tensor is not None)
            known[value] = node.op_type in _ELEMENTWISE and scalar and all(_is_free(source, known) for source in inputs)
    return known[value]


def _channels_last(graph: Graph, before: ir.Node, value: ir.Value) -> ir.Value:
    """Returns the value with its channels last, computed so where that needs no transposition at run time."""
    node = value.producer()
    if node is None or not _is_free(value, {}):
        return transpose(graph, before, value, CHANNELS_LAST)
    if node.op_type == "Transpose":
        return input_of(node)
    inputs = [
        source if constant(source) is not None else _channels_last(graph, node, source)
        for source in node.inputs
        if source is not None
    ]
    attributes = {"axis": 3} if node.op_type == "Concat" else attributes_of(node)
    result = graph.emit(node, node.op_type, inputs, attributes, like=value)
    shape = dims(value)
    result.shape = None if shape is None else ir.Shape([shape[axis] for axis in CHANNELS_LAST])
    transposed = transpose(graph, node, result, CHANNELS_FIRST)
    graph.replace(value, transposed)
    return result


def _dequantize_once(graph: Graph, node: ir.Node, position: int) -> None:
    """Stores a weight or bias dequantized, exactly as ONNX Runtime would dequantize it at every run."""
    source = producer_of(node.inputs[position], "DequantizeLinear")
    integers, scale = (constant(value) for value in source.inputs[:2]) if source is not None else (None, None)
    if source is None or integers is None or scale is None:
        return
    tensor = integers.to(torch.float32) * scale.reshape(-1, *[1] * (integers.ndim - 1))
    stored = graph.add_constant(str(input_of(source).name), tensor)
    node.replace_input_with(position, stored)
