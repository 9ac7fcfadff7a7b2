# SPDX-License-Identifier: Apache-2.0
"""Takes out what computes nothing: identities, statistics nobody reads, expansions that broadcasting does by itself."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from vitedge.export.onnx.passes.graph import Graph

_WITH_STATISTICS = ("LayerNormalization", "BatchNormalization")
_BROADCASTING = ("Add", "Sub", "Mul", "Div")


def clean_up(graph: Graph) -> None:
    """Removes identities, needless expansions and whatever no output depends on."""
    for node in list(graph.model.graph):
        if node.op_type == "Identity":
            _remove_identity(graph, node)
        elif node.op_type == "Expand":
            _remove_expansion(graph, node)
        elif node.op_type in _WITH_STATISTICS and len(node.outputs) > 1:
            node.resize_outputs(1)
    _remove_unused(graph)


def _remove_unused(graph: Graph) -> None:
    """A block's value stays also where nothing reads it any more: it is what runtimes are compared at."""
    outputs = graph.model.graph.outputs
    kept = [value for value in dict.fromkeys(graph.blocks.values()) if not value.is_graph_output()]
    outputs.extend(kept)
    RemoveUnusedNodesPass()(graph.model)
    for _ in kept:
        outputs.pop()  # taken off one by one, as only that tells a value that it is no output any more


def _remove_identity(graph: Graph, node: ir.Node) -> None:
    source, result = node.inputs[0], node.outputs[0]
    if source is None or (result.is_graph_output() and source.producer() is None):
        return
    if result.is_graph_output():
        source.name = result.name
    graph.replace(result, source)
    graph.model.graph.remove(node, safe=True)


def _remove_expansion(graph: Graph, node: ir.Node) -> None:
    source, result = node.inputs[0], node.outputs[0]
    if source is None or graph.is_kept(result):
        return
    readers = [reader for reader, _ in result.uses()]
    if all(_broadcasts_to(reader, result) for reader in readers):
        graph.replace(result, source)


def _broadcasts_to(reader: ir.Node, expanded: ir.Value) -> bool:
    """Whether the reader's other operand already has the expanded shape."""
    if reader.op_type not in _BROADCASTING or expanded.shape is None:
        return False
    others = [value for value in reader.inputs if value is not expanded]
    return len(others) == 1 and others[0] is not None and others[0].shape == expanded.shape
