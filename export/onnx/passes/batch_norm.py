# SPDX-License-Identifier: Apache-2.0
"""Batch normalization at inference is a scale and a shift per channel: the convolution before it takes them in."""

from __future__ import annotations

import onnx_ir as ir
import torch

from vitedge.export.onnx.passes.graph import MODULES, Graph, constant, modules_of


def fold_batch_norms(graph: Graph) -> None:
    """Folds every batch normalization whose input is a convolution that nothing else reads.

    With ``s = weight / sqrt(variance + eps)`` the convolution's weight ``W`` becomes ``s W`` and its bias ``b`` becomes
    ``s (b - mean) + bias``, computed in double precision. They keep the names of the convolution's weight and of the
    normalization's bias.
    """
    for node in list(graph.model.graph):
        convolution = node.inputs[0].producer() if node.op_type == "BatchNormalization" and node.inputs[0] else None
        if convolution is not None and convolution.op_type == "Conv" and _is_private(graph, convolution.outputs[0]):
            _fold(graph, convolution, node)


def _is_private(graph: Graph, value: ir.Value) -> bool:
    return len(value.uses()) == 1 and not graph.is_kept(value)


def _fold(graph: Graph, convolution: ir.Node, norm: ir.Node) -> None:
    weight = constant(convolution.inputs[1])
    gamma, beta, mean, variance = (constant(value) for value in norm.inputs[1:])
    if weight is None or gamma is None or beta is None or mean is None or variance is None:
        return
    scale = gamma.double() / torch.sqrt(variance.double() + norm.attributes["epsilon"].as_float())
    bias = constant(convolution.inputs[2]) if len(convolution.inputs) > 2 else None
    shift = (torch.zeros_like(mean) if bias is None else bias).double() - mean.double()
    folded = weight.double() * scale.reshape(-1, *[1] * (weight.ndim - 1))
    new_bias = (shift * scale + beta.double()).float()
    names = [str(value.name) for value in (convolution.inputs[1], norm.inputs[2]) if value is not None]
    convolution.resize_inputs(3)
    for position, (name, tensor) in enumerate(zip(names, (folded.float(), new_bias), strict=True), start=1):
        old = graph.model.graph.initializers[name]
        if len(old.uses()) == 1:
            del graph.model.graph.initializers[name]
        convolution.replace_input_with(position, graph.add_constant(name, tensor))
    convolution.meta[MODULES] = modules_of(convolution) + modules_of(norm)
    graph.replace(norm.outputs[0], convolution.outputs[0])
    graph.model.graph.remove(norm, safe=True)
