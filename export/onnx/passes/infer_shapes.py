# SPDX-License-Identifier: Apache-2.0
"""Gives every value a type and a shape."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from vitedge.export.onnx.passes.graph import Graph, GraphPass


@GraphPass
def infer_shapes(graph: Graph) -> None:
    """Infers every shape; what the exporter notes of shapes themselves is wrong where the batch is dynamic."""
    for node in graph.model.graph:
        for value in node.outputs:
            if value.dtype in (None, ir.DataType.INT64):
                value.shape, value.type = None, None
    ShapeInferencePass()(graph.model)
