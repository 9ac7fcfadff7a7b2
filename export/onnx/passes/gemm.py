# SPDX-License-Identifier: Apache-2.0
"""Writes Linears over integers in the form that ONNX Runtime computes as integers.

ONNX Runtime turns ``Gemm(DequantizeLinear, DequantizeLinear, DequantizeLinear)`` into one product of integers with a
result in float (QGemm). ``MatMul`` and ``Add`` over the same operands it joins into a float Gemm, whose weights it
dequantizes at every run.
"""

from __future__ import annotations

import onnx_ir as ir

from vitedge.export.onnx.passes.graph import Graph, GraphPass
from vitedge.export.onnx.passes.integers import integer_layers, qparams_of
from vitedge.export.onnx.passes.movement import dims, reshape


@GraphPass
def write_as_gemm(graph: Graph) -> None:
    """Gives every Linear over integers the form that ONNX Runtime computes as one product of integers."""
    for layer in integer_layers(graph):
        shape, node = dims(layer.integers), layer.end
        if shape is None or shape[-1] is None:
            continue
        flat = reshape(graph, node, layer.integers, (None, shape[-1])) if len(shape) != 2 else layer.integers
        real = graph.emit(node, "DequantizeLinear", [flat, *qparams_of(layer.input)], {}, like=layer.input.outputs[0])
        real.shape = flat.shape
        weight = layer.weight.outputs[0]
        bias = [] if layer.bias is None else [layer.bias.outputs[0]]
        result = graph.emit(node, "Gemm", [real, weight, *bias], {}, like=layer.output)
        out = dims(weight)
        if len(shape) != 2 and out is not None:
            result.shape = ir.Shape([None, out[-1]])
            result = reshape(graph, node, result, (*shape[:-1], out[-1]))
        graph.replace(node.outputs[0], result)
