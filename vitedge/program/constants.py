# SPDX-License-Identifier: Apache-2.0
"""The tensors of a captured program that do not depend on the image: its weights, and values computed from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx import Node


@torch.no_grad()
def constant_values(exported: ExportedProgram) -> dict[Node, Tensor]:
    """Computes every tensor of the graph that does not depend on the image, by node."""
    values: dict[Node, Any] = {}
    tensors = parameters(exported)
    for node in exported.graph.nodes:
        if node.op == "placeholder" and node.name in tensors:
            values[node] = tensors[node.name]
        elif node.op == "call_function" and all(source in values for source in node.all_input_nodes):
            arguments, options = torch.fx.map_arg((node.args, node.kwargs), lambda source: values[source])
            values[node] = node.target(*arguments, **options)
    return {node: value for node, value in values.items() if isinstance(value, Tensor)}


def parameters(exported: ExportedProgram) -> dict[str, Tensor]:
    """Returns name of a placeholder to the parameter, buffer or constant that it stands for."""
    return {
        spec.arg.name: exported.state_dict.get(spec.target, exported.constants.get(spec.target))
        for spec in exported.graph_signature.input_specs
        if spec.kind is not InputKind.USER_INPUT
    }


def sources(node: Node, values: Mapping[Node, Tensor]) -> list[Node]:
    """Returns the nodes that hold the floating-point weights of a node, in the order of its arguments."""
    return [source for source in node.all_input_nodes if source in values and values[source].is_floating_point()]
