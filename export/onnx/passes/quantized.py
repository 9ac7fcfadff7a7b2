# SPDX-License-Identifier: Apache-2.0
"""The form of a quantized graph that its target computes with integers, exactly as the program rounds.

For processors (activations in uint8) the layout is chosen so that ONNX Runtime fuses every Linear; for TensorRT
(activations in int8, zero points of nought) the graph keeps the form in which TensorRT looks for its patterns.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from vitedge.export.onnx.passes.attention_layout import separate_projections
from vitedge.export.onnx.passes.cleanup import clean_up
from vitedge.export.onnx.passes.convolution_layout import convolutions_as_products
from vitedge.export.onnx.passes.graph import Graph
from vitedge.export.onnx.passes.integers import turn_weights, write_as_gemm, write_bias_in_float
from vitedge.export.onnx.passes.rounding_order import (
    quantize_before_factors,
    quantize_before_joins,
    quantize_before_movement,
    share_quantizers,
)
from vitedge.export.onnx.passes.token_order import (
    add_before_transposition,
    merge_reshapes,
    merge_transpositions,
    move_tokens_before_layers,
)


def lay_out_integers(graph: Graph) -> None:
    """Brings what was quantized into the form that suits its target; a graph without integers stays as it is."""
    if not any(node.op_type == "DequantizeLinear" for node in graph.model.graph):
        return
    turn_weights(graph)
    clean_up(graph)
    if for_processors(graph):
        _lay_out_for_processors(graph)
    else:
        write_bias_in_float(graph)
        clean_up(graph)


def for_processors(graph: Graph) -> bool:
    """Whether activations are unsigned, as ONNX Runtime's kernels for processors want them."""
    zero_points = [node.inputs[2] for node in graph.model.graph if node.op_type == "QuantizeLinear"]
    return any(value is not None and value.dtype == ir.DataType.UINT8 for value in zero_points)


def _lay_out_for_processors(graph: Graph) -> None:
    _infer_shapes(graph)
    for step in (
        quantize_before_joins,
        convolutions_as_products,
        clean_up,
        quantize_before_factors,
        quantize_before_movement,
        share_quantizers,
        separate_projections,
        clean_up,
        quantize_before_movement,
        add_before_transposition,
        clean_up,
        merge_reshapes,
        clean_up,
        merge_transpositions,
        clean_up,
        move_tokens_before_layers,
        clean_up,
        merge_reshapes,
        clean_up,
        merge_transpositions,
        write_as_gemm,
        clean_up,
        quantize_before_movement,
        merge_reshapes,
        clean_up,
    ):
        step(graph)


def _infer_shapes(graph: Graph) -> None:
    """Gives every value a shape; what the exporter notes of shapes themselves is wrong where the batch is dynamic."""
    for node in graph.model.graph:
        for value in node.outputs:
            if value.dtype in (None, ir.DataType.INT64):
                value.shape, value.type = None, None
    ShapeInferencePass()(graph.model)
