# SPDX-License-Identifier: Apache-2.0
"""Brings a graph that was translated for opset 18 to the opset that was asked for, and shows that it is there."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from vitedge.errors import BadRecipe
from vitedge.export.onnx.passes.graph import Graph, constant
from vitedge.export.onnx.passes.weight_only import CONTRIB

OLDEST_OPSET = 13
NEWEST_OPSET = min(26, onnx.defs.onnx_opset_version())
"""The newest opset that ONNX Runtime 1.31 loads, or that the installed onnx defines if that is older."""

_AXES_BECAME_INPUT = {
    18: ("ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare"),
}
_SHAPE_RANGE_SINCE = 15
_ALLOWZERO_SINCE = 14


def check_opset(opset: int) -> None:
    """Refuses an opset that no file is written for.

    Raises:
        BadRecipe: with the opsets that can be had.
    """
    if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        raise BadRecipe(f"ONNX opset {opset} cannot be written; choose --opset from {OLDEST_OPSET} to {NEWEST_OPSET}.")


def retarget(graph: Graph, opset: int) -> None:
    """Rewrites what an older opset spells differently, stamps the version, and checks every node against it.

    Raises:
        BadRecipe: an operator that the opset does not have, with the opsets that do.
    """
    for node in list(graph.model.graph):
        for since, operators in _AXES_BECAME_INPUT.items():
            if opset < since and node.op_type in operators:
                _axes_to_attribute(node)
        if node.op_type == "Reshape" and opset < _ALLOWZERO_SINCE:
            node.attributes.pop("allowzero", None)
        if node.op_type == "Shape" and opset < _SHAPE_RANGE_SINCE:
            _slice_of_shape(graph, node)
    graph.model.opset_imports.clear()
    graph.model.opset_imports[""] = opset
    if any(node.domain == CONTRIB for node in graph.model.graph):
        graph.model.opset_imports[CONTRIB] = 1
    for node in graph.model.graph:
        node.version = None
    graph.model.ir_version = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)])
    _check_operators(graph, opset)


def _axes_to_attribute(node: ir.Node) -> None:
    axes = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if axes is not None:
        node.attributes["axes"] = ir.AttrInt64s("axes", axes.tolist())
        node.resize_inputs(1)
    node.attributes.pop("noop_with_empty_axes", None)


def _slice_of_shape(graph: Graph, node: ir.Node) -> None:
    """``Shape`` of a range of axes as ``Slice`` of the whole shape."""
    import torch  # noqa: PLC0415, only the oldest opsets come here

    start, end = (node.attributes.pop(name, None) for name in ("start", "end"))
    if start is None and end is None:
        return
    bounds = [start.as_int() if start else 0, end.as_int() if end else torch.iinfo(torch.int64).max]
    whole = ir.Node("", "Shape", [node.inputs[0]], metadata_props=dict(node.metadata_props))
    cuts = [graph.add_constant("shape_bound", torch.tensor([bound])) for bound in bounds]
    part = ir.Node("", "Slice", [whole.outputs[0], *cuts], metadata_props=dict(node.metadata_props))
    for new in (whole, part):
        new.meta.update(node.meta)
        new.outputs[0].type = ir.TensorType(ir.DataType.INT64)
    graph.model.graph.insert_before(node, [whole, part])
    graph.replace(node.outputs[0], part.outputs[0])
    graph.model.graph.remove(node, safe=True)


def _check_operators(graph: Graph, opset: int) -> None:
    for node in graph.model.graph:
        if node.domain != CONTRIB and not _has(node, opset):
            able = [str(version) for version in range(OLDEST_OPSET, NEWEST_OPSET + 1) if _has(node, version)]
            raise BadRecipe(
                f"This model needs the ONNX operator {node.op_type} in a form that opset {opset} does not have;"
                f" choose --opset from {', '.join(able) or 'none: it cannot be written'}."
            )


def _has(node: ir.Node, opset: int) -> bool:
    """Returns whether the operator exists at the opset with these inputs and attributes."""
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
    except onnx.defs.SchemaError:
        return False
    fits = schema.min_input <= len(node.inputs) <= schema.max_input
    return not schema.deprecated and fits and set(node.attributes) <= set(schema.attributes)
