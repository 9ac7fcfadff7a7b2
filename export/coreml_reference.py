# SPDX-License-Identifier: Apache-2.0
"""The weights that a program hands to the part of it that depends on the image: what a lowering has to contain."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.export.graph_signature import InputKind
from torch.fx import Node

from vitedge.export.program import Program

_ATEN = torch.ops.aten

Array = npt.NDArray[np.float32]


def expected_weights(program: Program) -> dict[str, Array]:
    """Every floating-point weight as the image meets it, as float32 and shared with the program where that is its type.

    What the program computes from weights alone is computed here too: a bias table that is looked up, a standardized
    weight. A batch normalization counts as folded into the convolution before it.

    Returns:
        Name of the node that holds the weight to its value.
    """
    return dict(_weights(program))


def _weights(program: Program) -> Iterator[tuple[str, Array]]:
    values = _constants(program)
    folded: set[Node] = set()
    for node in program.exported.graph.nodes:
        if node.op != "call_function" or node in values:
            continue
        if node.target is _ATEN.batch_norm.default and _is_convolution(node.args[0]):
            yield from _fold(node, values)
            folded |= {node, *node.all_input_nodes[:1]}
    for node in program.exported.graph.nodes:
        if node.op != "call_function" or node in values or node in folded:
            continue
        for source in node.all_input_nodes:
            if source in values and values[source].is_floating_point():
                yield source.name, _numpy(values[source])


def _is_convolution(node: Any) -> bool:
    return bool(node.target is _ATEN.conv2d.default and len(node.users) == 1)


def _fold(normalization: Node, values: dict[Node, Tensor]) -> Iterator[tuple[str, Array]]:
    """Weight and bias of a convolution that does its batch normalization too (arXiv:1712.05877, section 3.2)."""
    convolution: Any = normalization.args[0]
    arguments: Any = normalization.args
    weight = values[convolution.args[1]].double()
    bias = convolution.args[2] if len(convolution.args) > 2 else None
    gamma, beta, mean, variance = (values[source].double() for source in arguments[1:5])
    scale = gamma / torch.sqrt(variance + arguments[7])
    shift = (values[bias].double() if bias is not None else 0.0) - mean
    yield f"{convolution.name} folded", _numpy(weight * scale.reshape(-1, 1, 1, 1))
    yield f"{normalization.name} folded", _numpy(shift * scale + beta)


def _numpy(tensor: Tensor) -> Array:
    return np.asarray(tensor.detach().float().cpu().numpy())


@torch.no_grad()
def _constants(program: Program) -> dict[Node, Tensor]:
    exported = program.exported
    values: dict[Node, Any] = {}
    targets = {
        spec.arg.name: spec.target
        for spec in exported.graph_signature.input_specs
        if spec.kind is not InputKind.USER_INPUT
    }
    for node in exported.graph.nodes:
        if node.op == "placeholder" and node.name in targets:
            name = targets[node.name]
            values[node] = exported.state_dict[name] if name in exported.state_dict else exported.constants[name]
        elif node.op == "call_function" and all(source in values for source in node.all_input_nodes):
            arguments, options = torch.fx.map_arg((node.args, node.kwargs), lambda source: values[source])
            values[node] = node.target(*arguments, **options)
    return {node: value for node, value in values.items() if isinstance(value, Tensor)}
