# SPDX-License-Identifier: Apache-2.0
"""The form of a quantized graph that its target computes with integers, exactly as the program rounds.

For processors (activations in uint8) the layout is chosen so that ONNX Runtime fuses every Linear; for TensorRT
(activations in int8, zero points of zero) the graph keeps the form in which TensorRT looks for its patterns.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
from onnx_ir.passes.common import CommonSubexpressionEliminationPass, DeduplicateInitializersPass

from vitedge.export.onnx.passes.add_before_transposition import add_before_transposition
from vitedge.export.onnx.passes.attention_layout import separate_projections
from vitedge.export.onnx.passes.bias_in_float import write_bias_in_float
from vitedge.export.onnx.passes.convolution_layout import convolutions_as_products
from vitedge.export.onnx.passes.gemm import write_as_gemm
from vitedge.export.onnx.passes.infer_shapes import infer_shapes
from vitedge.export.onnx.passes.merge_reshapes import merge_reshapes
from vitedge.export.onnx.passes.merge_transpositions import merge_transpositions
from vitedge.export.onnx.passes.move_tokens_before_layers import move_tokens_before_layers
from vitedge.export.onnx.passes.quantize_before_factors import quantize_before_factors
from vitedge.export.onnx.passes.quantize_before_joins import quantize_before_joins
from vitedge.export.onnx.passes.quantize_before_movement import quantize_before_movement
from vitedge.export.onnx.passes.split_projections import split_projections
from vitedge.export.onnx.passes.transpose_weights import transpose_weights

_ROUNDS = 10
"""More than any graph has needed until nothing changes."""

FOR_PROCESSORS = ir.passes.Sequential(
    transpose_weights,
    infer_shapes,
    ir.passes.PassManager(
        [
            quantize_before_joins,
            convolutions_as_products,
            quantize_before_factors,
            quantize_before_movement,
            DeduplicateInitializersPass(),
            CommonSubexpressionEliminationPass(),
            separate_projections,
            add_before_transposition,
            merge_reshapes,
            merge_transpositions,
            move_tokens_before_layers,
        ],
        steps=_ROUNDS,
    ),
    write_as_gemm,
    ir.passes.PassManager([quantize_before_movement, merge_reshapes], steps=_ROUNDS),
)
FOR_TENSORRT = ir.passes.Sequential(transpose_weights, infer_shapes, write_bias_in_float, split_projections)


class LayOutIntegersPass(ir.passes.InPlacePass):
    """Brings what was quantized into the form that suits its target; a graph without integers stays as it is."""

    def __init__(self, layout: Callable[[ir.Model], ir.passes.PassResult]) -> None:
        self._layout = layout

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Runs the passes of the layout."""
        if not any(node.op_type == "DequantizeLinear" for node in model.graph):
            return ir.passes.PassResult(model, modified=False)
        return self._layout(model)


def for_processors(model: ir.Model) -> ir.passes.PassResult:
    """Runs the passes for processors; what was quantized for TensorRT keeps that form: no kernel takes its integers."""
    return FOR_PROCESSORS(model) if _has_unsigned(model) else FOR_TENSORRT(model)


def _has_unsigned(model: ir.Model) -> bool:
    """Whether activations are unsigned, as ONNX Runtime's kernels for processors want them."""
    zero_points = [node.inputs[2] for node in model.graph if node.op_type == "QuantizeLinear"]
    return any(value is not None and value.dtype == ir.DataType.UINT8 for value in zero_points)
