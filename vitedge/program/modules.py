# SPDX-License-Identifier: Apache-2.0
"""The modules of the reference that the nodes of a captured program belong to."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Node

from vitedge.program.program import Program


def enclosing_modules(node: Node) -> list[str]:
    """Returns the names of the modules whose forward a node belongs to, outermost first."""
    paths = [path for path, _ in node.meta.get("nn_module_stack", {}).values()]
    # The decompositions mark what they add with a path of this kind, which is no module.
    return [path for path in paths if not path.startswith("_empty_nn_module_stack")]


def origin_metadata(node: Node) -> dict[str, Any]:
    """Returns the metadata of a node that a new node of the same module has to carry."""
    return {key: node.meta[key] for key in ("nn_module_stack", "stack_trace") if key in node.meta}


def innermost_module(node: Node) -> str:
    """Returns the name of the innermost module that a node belongs to; the reference itself is the empty name."""
    return (enclosing_modules(node) or [""])[-1]


def execution_order(program: Program) -> tuple[str, ...]:
    """Returns the innermost modules of all computing nodes, in order of execution."""
    nodes = (node for node in program.exported.graph.nodes if node.op == "call_function")
    return tuple(dict.fromkeys(innermost_module(node) for node in nodes))


def block_outputs(exported: ExportedProgram, blocks: tuple[str, ...]) -> dict[str, str]:
    """Returns for every block its last node with a consumer outside of it."""
    wanted = set(blocks)
    outputs: dict[str, str] = {}
    for node in exported.graph.nodes:
        if not isinstance(node.meta.get("val"), Tensor):
            continue
        inside = wanted.intersection(enclosing_modules(node))
        for block in inside:
            if any(block not in enclosing_modules(user) for user in node.users):
                outputs[block] = node.name
    return {block: outputs[block] for block in blocks if block in outputs}
