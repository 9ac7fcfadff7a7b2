# SPDX-License-Identifier: Apache-2.0
"""Names nodes and values after the modules of the reference, in letters that JSON and trtexec carry unharmed."""

from __future__ import annotations

import re

import onnx_ir as ir

from vitedge.export.onnx.passes.graph import Graph, modules_of

_NAMED = "vitedge.named"
_UNSAFE = re.compile(r"[^A-Za-z0-9_./-]")


def name_after_modules(graph: Graph) -> None:
    """``blocks.0.attn.qkv/MatMul``, with a number where a module has several nodes of a kind.

    Inputs, outputs and weights keep their names; a value is called like the node that makes it, and another constant
    like the node that reads it first.
    """
    taken = {value.name for value in (*graph.model.graph.inputs, *graph.model.graph.outputs)}
    taken |= set(graph.model.graph.initializers)
    counts: dict[str, int] = {}
    for node in graph.model.graph:
        module = modules_of(node)[0]
        stem = _UNSAFE.sub("_", f"{module}/{node.op_type}" if module else node.op_type)
        name = stem
        while name in taken:
            counts[stem] = counts.get(stem, 0) + 1
            name = f"{stem}_{counts[stem]}"
        taken.add(name)
        node.name = name
        for index, value in enumerate(node.outputs):
            if not value.is_graph_output():
                value.name = name if index == 0 else f"{name}.{index}"
        _name_constants(graph, node)


def _name_constants(graph: Graph, node: ir.Node) -> None:
    """Names the node's inputs that are neither weights nor named yet."""
    initializers = graph.model.graph.initializers
    for index, value in enumerate(node.inputs):
        if value is None or not value.is_initializer() or value.meta.get(_NAMED):
            continue
        value.meta[_NAMED] = True
        if str(value.name).removesuffix(".float16") not in graph.weights:
            del initializers[str(value.name)]
            value.name = f"{node.name}.{index}"
            graph.model.graph.register_initializer(value)
