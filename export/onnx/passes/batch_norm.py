# SPDX-License-Identifier: Apache-2.0
"""Batch normalization at inference is a scale and a shift per channel: the convolution before it takes them in."""

from __future__ import annotations

import onnx_ir as ir
import torch

from vitedge.export.onnx.passes.graph import MODULES, Graph, GraphPass, constant, modules_of
from vitedge.program.batch_norm import BatchNorm


@GraphPass
def fold_batch_norms(graph: Graph) -> None:
    """Folds every batch normalization whose input is a convolution that nothing else reads.

    Weight and bias of the convolution become those of `vitedge.program.batch_norm.BatchNorm.fold`, computed in double
    precision. They keep the names of the convolution's weight and of the normalization's bias.
    """
    for node in list(graph.model.graph):
        convolution = node.inputs[0].producer() if node.op_type == "BatchNormalization" and node.inputs[0] else None
        if convolution is not None and convolution.op_type == "Conv" and graph.is_private(convolution.outputs[0]):
            _fold(graph, convolution, node)


def _fold(graph: Graph, convolution: ir.Node, norm: ir.Node) -> None:
    weight = constant(convolution.inputs[1])
    gamma, beta, mean, variance = (constant(value) for value in norm.inputs[1:])
    if weight is None or gamma is None or beta is None or mean is None or variance is None:
        return
    bias = constant(convolution.inputs[2]) if len(convolution.inputs) > 2 else None
    epsilon = norm.attributes["epsilon"].as_float()
    wide = BatchNorm(gamma.double(), beta.double(), mean.double(), variance.double(), epsilon)
    folded = wide.fold(weight.double(), None if bias is None else bias.double(), torch.sqrt)
    names = [str(value.name) for value in (convolution.inputs[1], norm.inputs[2]) if value is not None]
    convolution.resize_inputs(3)
    for position, (name, tensor) in enumerate(zip(names, folded, strict=True), start=1):
        old = graph.model.graph.initializers[name]
        if len(old.uses()) == 1:
            del graph.model.graph.initializers[name]
        convolution.replace_input_with(position, graph.add_constant(name, tensor.float()))
    convolution.meta[MODULES] = modules_of(convolution) + modules_of(norm)
    graph.replace(norm.outputs[0], convolution.outputs[0])
    graph.model.graph.remove(norm, safe=True)
