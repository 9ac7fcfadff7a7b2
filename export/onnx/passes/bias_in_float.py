# SPDX-License-Identifier: Apache-2.0
"""Stores biases as the numbers that their integers stand for."""

from __future__ import annotations

import torch

from vitedge.export.onnx.passes.graph import Graph, GraphPass, constant, input_of


@GraphPass
def write_bias_in_float(graph: Graph) -> None:
    """Stores every bias dequantized: TensorRT reads no integers of 32 bits."""
    for node in list(graph.model.graph):
        integers = constant(node.inputs[0]) if node.op_type == "DequantizeLinear" else None
        scale = constant(node.inputs[1]) if integers is not None and integers.dtype == torch.int32 else None
        if integers is not None and scale is not None:
            name = str(input_of(node).name)
            graph.replace(node.outputs[0], graph.add_constant(name, integers.to(torch.float32) * scale))
