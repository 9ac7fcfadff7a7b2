# SPDX-License-Identifier: Apache-2.0
"""Half precision as a typed graph: weights in float16, a Cast wherever a value changes its type.

Inputs and outputs keep their types. What an input passes before its first operator with weights (the normalization of a
``uint8`` image) stays in float32, as do the modules named as islands and every operator with a weight that float16
cannot hold.
"""

from __future__ import annotations

import onnx_ir as ir
import torch
from onnx_ir.tensor_adapters import TorchTensor

from vitedge.export.passes.graph import Graph, constant, modules_of

FLOAT16_MAX = 65504.0
_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)
_PREAMBLE = ("Cast", "Add", "Sub", "Mul", "Div", "Transpose", "Reshape", "Gather", "Slice", "Concat")


def to_half(graph: Graph, islands: tuple[str, ...]) -> None:
    """Makes every float32 value float16 but for inputs, outputs and what has to stay.

    Args:
        graph: every value of it has a type.
        islands: innermost module names whose nodes stay in float32. A module's submodules are not included.
    """
    model = graph.model.graph
    single = {id(node) for node in _preamble(graph)}
    for node in model:
        if set(modules_of(node)) & set(islands):
            single.add(id(node))
        elif _has_large_weight(node):
            single.add(id(node))
            graph.notes.append(f"{modules_of(node)[0]} stays in float32: a weight of it exceeds float16")
    _cast_outputs(graph)
    casts: dict[tuple[int, ir.DataType], ir.Value] = {}
    for node in list(model):
        wanted = ir.DataType.FLOAT if id(node) in single else ir.DataType.FLOAT16
        for index, value in enumerate(node.inputs):
            if value is not None and value.dtype in _FLOATS and value.dtype != wanted and not _is_final_cast(node):
                node.replace_input_with(index, _as_type(graph, node, value, wanted, casts))
        _retype_outputs(node, wanted)


def _is_final_cast(node: ir.Node) -> bool:
    return node.op_type == "Cast" and node.outputs[0].is_graph_output()


def _preamble(graph: Graph) -> list[ir.Node]:
    """The nodes between an input and the first operator with weights."""
    reached = {id(value) for value in graph.model.graph.inputs}
    nodes = []
    for node in graph.model.graph:
        data = [value for value in node.inputs if value is not None and constant(value) is None]
        if node.op_type in _PREAMBLE and data and all(id(value) in reached for value in data):
            reached.update(id(value) for value in node.outputs)
            nodes.append(node)
    return nodes


def _has_large_weight(node: ir.Node) -> bool:
    weights = [constant(value) for value in node.inputs]
    return any(
        weight is not None and weight.is_floating_point() and weight.numel() > 0 and weight.abs().max() > FLOAT16_MAX
        for weight in weights
    )


def _cast_outputs(graph: Graph) -> None:
    """Lets every output be the result of a Cast, so that its type stays while the type of what feeds it changes."""
    for position, output in enumerate(list(graph.model.graph.outputs)):
        if output.dtype not in _FLOATS:
            continue
        producer = output.producer()
        cast = ir.Node("", "Cast", [output], [ir.AttrInt64("to", int(ir.DataType.FLOAT))])
        if producer is not None:
            cast.meta.update(producer.meta)
        result = cast.outputs[0]
        result.name, output.name = output.name, f"{output.name}_uncast"
        result.shape, result.type = output.shape, ir.TensorType(ir.DataType.FLOAT)
        graph.model.graph.append(cast)
        graph.model.graph.outputs[position] = result


def _retype_outputs(node: ir.Node, wanted: ir.DataType) -> None:
    if node.op_type == "Cast":
        to = ir.DataType(node.attributes["to"].as_int())
        if to == ir.DataType.FLOAT and wanted == ir.DataType.FLOAT16 and not node.outputs[0].is_graph_output():
            node.attributes["to"] = ir.AttrInt64("to", int(wanted))
    for value in node.outputs:
        if value.dtype == ir.DataType.FLOAT and not (value.is_graph_output() and node.op_type == "Cast"):
            value.type = ir.TensorType(wanted)


def _as_type(
    graph: Graph, reader: ir.Node, value: ir.Value, wanted: ir.DataType, casts: dict[tuple[int, ir.DataType], ir.Value]
) -> ir.Value:
    """The value in another type: a constant converted when the file is written, or one Cast that all readers share."""
    key = (id(value), wanted)
    if key in casts:
        return casts[key]
    tensor = constant(value)
    if tensor is not None:
        result = _half_constant(graph, value, tensor)
    else:
        cast = ir.Node("", "Cast", [value], [ir.AttrInt64("to", int(wanted))])
        producer = value.producer()
        cast.meta.update((producer or reader).meta)
        result = cast.outputs[0]
        result.shape, result.type = value.shape, ir.TensorType(wanted)
        if producer is None:
            graph.model.graph.insert_before(reader, cast)
        else:
            graph.model.graph.insert_after(producer, cast)
    casts[key] = result
    return result


def _half_constant(graph: Graph, value: ir.Value, tensor: torch.Tensor) -> ir.Value:
    name = str(value.name)
    lazy = ir.LazyTensor(
        lambda: TorchTensor(tensor.half(), name=name),
        dtype=ir.DataType.FLOAT16,
        shape=ir.Shape(tensor.shape),
        name=name,
    )
    return graph.add_initializer(f"{name}.float16" if _stays(value) else name, lazy)


def _stays(value: ir.Value) -> bool:
    return value.is_initializer()
