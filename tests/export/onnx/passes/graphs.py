# SPDX-License-Identifier: Apache-2.0
"""Small graphs in ONNX's text format, with blocks and constants that share their memory."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
import onnx_ir as ir
import torch
from onnx_ir.tensor_adapters import TorchTensor

from vitedge.export.onnx.passes.graph import Graph

OPSET = 18


def graph_of(
    text: str, weights: Mapping[str, torch.Tensor] | None = None, blocks: Mapping[str, str] | None = None
) -> Graph:
    """A graph under construction.

    Args:
        text: of a function as ``onnx.parser.parse_graph`` reads it; weights are among its inputs.
        weights: become initializers that share the tensors' memory.
        blocks: module name to the name of the value that equals its output.
    """
    parsed = onnx.parser.parse_graph(text)
    proto = onnx.helper.make_model(parsed, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=9)
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto))
    values = {value.name: value for value in (*model.graph.inputs, *(v for n in model.graph for v in n.outputs))}
    for name, tensor in (weights or {}).items():
        value = values[name]
        model.graph.inputs.remove(value)
        value.const_value = TorchTensor(tensor, name=name)
        model.graph.register_initializer(value)
    return Graph(model, frozenset(weights or ()), {block: values[name] for block, name in (blocks or {}).items()})


def kinds(graph: Graph) -> list[str]:
    return [node.op_type for node in graph.model.graph]
