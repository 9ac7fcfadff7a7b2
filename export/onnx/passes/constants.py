# SPDX-License-Identifier: Apache-2.0
"""Whatever depends on constants alone becomes a constant, and equal constants become one."""

from __future__ import annotations

import hashlib

import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnx.reference import ReferenceEvaluator
from onnx_ir.passes.common import LiftConstantsToInitializersPass
from onnx_ir.tensor_adapters import TorchTensor

from vitedge.export.onnx.passes.graph import Graph, constant, modules_of

_PROBE = 64
"""Elements at either end of a tensor that are compared before the whole is."""


def fold_constants(graph: Graph) -> None:
    """Evaluates every node whose inputs are constants.

    A transposed or reshaped weight is a view, not a copy, and keeps the name of the weight: the layout is part of the
    operator that reads it.
    """
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(graph.model)
    for node in list(graph.model.graph):
        inputs = [constant(value) for value in node.inputs]
        if node.op_type == "DequantizeLinear":
            continue  # a quantized weight stays one
        if node.inputs and all(tensor is not None for tensor in inputs) and len(node.outputs) == 1:
            _replace_by_constant(graph, node, [tensor for tensor in inputs if tensor is not None])


def _replace_by_constant(graph: Graph, node: ir.Node, inputs: list[torch.Tensor]) -> None:
    source, result = node.inputs[0], node.outputs[0]
    if source is None or result.is_graph_output():
        return
    view = _view(node, inputs)
    tensor = _evaluate(node, inputs) if view is None else view
    name = source.name if view is not None and source.name else f"{modules_of(node)[0]}/{node.op_type}_constant"
    only_reader = len(source.uses()) == 1
    shared = view is None or not only_reader
    graph.replace(result, graph.add_constant(name, tensor) if shared else _take_over(source, tensor))
    graph.model.graph.remove(node, safe=True)


def _take_over(source: ir.Value, tensor: torch.Tensor) -> ir.Value:
    """The same initializer with its new layout."""
    source.const_value = TorchTensor(tensor, name=source.name)
    source.shape = ir.Shape(tensor.shape)
    return source


def _view(node: ir.Node, inputs: list[torch.Tensor]) -> torch.Tensor | None:
    """The result where it only arranges the first input anew, without a copy."""
    tensor = inputs[0]
    if node.op_type == "Transpose":
        order = node.attributes["perm"].as_ints() if "perm" in node.attributes else range(tensor.ndim)[::-1]
        return tensor.permute(tuple(order))
    if node.op_type == "Reshape" and tensor.is_contiguous():
        sizes = [tensor.shape[axis] if size == 0 else size for axis, size in enumerate(inputs[1].tolist())]
        return tensor.reshape(sizes)
    return None


def _evaluate(node: ir.Node, inputs: list[torch.Tensor]) -> torch.Tensor:
    """Runs one node with ONNX's reference implementation."""
    names = [f"i{index}" for index in range(len(inputs))]
    single = onnx.helper.make_node(node.op_type, names, ["o"])
    for attribute in node.attributes.values():
        single.attribute.append(ir.serde.serialize_attribute(attribute))
    types = [ir.DataType.from_numpy(tensor.numpy().dtype) for tensor in inputs]
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            [single],
            "constant",
            [onnx.helper.make_tensor_value_info(name, kind, None) for name, kind in zip(names, types, strict=True)],
            [onnx.helper.make_empty_tensor_value_info("o")],
        ),
        opset_imports=[onnx.helper.make_opsetid("", node.version or 18)],
    )
    (result,) = ReferenceEvaluator(model).run(
        None, {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
    )
    return torch.from_numpy(np.array(result))


def merge_equal_constants(graph: Graph) -> None:
    """Leaves one initializer of those with the same type, shape and content."""
    seen: dict[object, ir.Value] = {}
    for value in list(graph.model.graph.initializers.values()):
        tensor = constant(value)
        if tensor is None:
            continue
        first = seen.setdefault(_key(tensor), value)
        if first is not value and _equal(first, tensor):
            graph.replace(value, first)
            del graph.model.graph.initializers[str(value.name)]


def _key(tensor: torch.Tensor) -> tuple[object, ...]:
    """Equal for equal tensors, and cheap: only both ends are read."""
    flat = tensor.flatten() if tensor.is_contiguous() else tensor.reshape(len(tensor), -1)[0]
    ends = (flat[:_PROBE], flat[-_PROBE:])
    digest = hashlib.sha256(b"".join(end.contiguous().numpy().tobytes() for end in ends)).digest()
    return tensor.dtype, tuple(tensor.shape), tensor.stride(), digest


def _equal(first: ir.Value, tensor: torch.Tensor) -> bool:
    other = constant(first)
    return other is not None and torch.equal(other, tensor)
