# SPDX-License-Identifier: Apache-2.0
"""The weights of a captured program: what a package that was made of it has to contain."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Node

from vitedge.export.coreml.quantized import BYTES, CONSTANTS
from vitedge.export.coreml.weights import Weight
from vitedge.mlprogram.blobs import Array
from vitedge.program.constants import constant_values, sources
from vitedge.program.modules import innermost_module
from vitedge.program.program import Program

_ATEN = torch.ops.aten
_EPSILON: Mapping[Any, int] = {_ATEN.batch_norm.default: 7, _ATEN._native_batch_norm_legit_no_training.default: 6}
"""A batch normalization before and after decomposition, to the place of its epsilon among its arguments."""
_MOVEMENT = frozenset(
    {
        _ATEN.view.default, _ATEN.reshape.default, _ATEN._unsafe_view.default, _ATEN.permute.default,
        _ATEN.transpose.int, _ATEN.t.default, _ATEN.expand.default, _ATEN.index.Tensor, _ATEN.unsqueeze.default,
        _ATEN.squeeze.dim, _ATEN.select.int, _ATEN.slice.Tensor, _ATEN.clone.default, _ATEN.contiguous.default,
        _ATEN.cat.default, _ATEN.flatten.using_ints, _ATEN.unbind.int, _ATEN.alias.default, operator.getitem,
    }
)  # fmt: skip
"""Operations that move values and compute nothing: what they make of a weight is exact."""


def expected_weights(program: Program) -> dict[str, Weight]:
    """Every weight as the image meets it, as float32 and shared with the program where that is its type.

    What the program computes from weights alone is computed here too: a bias table that is looked up, a standardized
    weight. A batch normalization counts as folded into the convolution before it. Of a quantized weight there are the
    integers, as they are, and their scales.

    Returns:
        Name of the node that holds the weight to its value.
    """
    return dict(_weights(program.exported))


def _weights(exported: ExportedProgram) -> Iterator[tuple[str, Weight]]:
    values = constant_values(exported)
    computed = _computed(values)
    calls = [node for node in exported.graph.nodes if node.op == "call_function" and node not in values]
    folded: set[Node] = set()
    for node in calls:
        convolution = folds_into(node)
        if convolution is not None:
            weight, bias = fold(node, values)
            yield f"{convolution.name} folded", Weight(weight, innermost_module(convolution), "folded")
            yield f"{node.name} folded", Weight(bias, innermost_module(node), "folded")
            folded |= {node, convolution}
    for node in calls:
        for source in () if node in folded else sources(node, values):
            if source.target in CONSTANTS:
                yield from _stored(source, values, innermost_module(node))
                continue
            origin = "computed" if source in computed else "copied"
            yield source.name, Weight(_numpy(values[source]), innermost_module(node), origin)


def _stored(node: Node, values: Mapping[Node, Tensor], module: str) -> Iterator[tuple[str, Weight]]:
    """What Core ML holds in place of a weight that is dequantized; see `write_constants` for biases."""
    arguments: Any = node.args
    integers, scale, zero_point, *_ = arguments
    if values[integers].dtype not in BYTES:
        yield integers.name, Weight(_numpy(values[node]), module)
        return
    yield integers.name, Weight(np.asarray(values[integers].detach().cpu().numpy()), module)
    yield scale.name, Weight(_numpy(values[scale]), module)
    yield zero_point.name, Weight(_numpy(values[zero_point]).astype(np.int8), module)


def folds_into(node: Node) -> Node | None:
    """The convolution that can do this batch normalization too, where the node is one."""
    before: Any = node.args[0] if node.target in _EPSILON else None
    return before if before is not None and before.target is _ATEN.conv2d.default and len(before.users) == 1 else None


def fold(normalization: Node, values: Mapping[Node, Tensor]) -> tuple[Array, Array]:
    """Weight and bias of a convolution that does its batch normalization too (arXiv:1712.05877, section 3.2).

    Computed in float32, by NumPy and in the order in which coremltools does it, so that not even the rounding differs.
    """
    convolution: Any = normalization.args[0]
    arguments: Any = normalization.args
    weight = _numpy(values[convolution.args[1]])
    bias = convolution.args[2] if len(convolution.args) > 2 else None
    gamma, beta, mean, variance = (_numpy(values[source]) for source in arguments[1:5])
    scale = gamma / np.sqrt(variance + np.float32(arguments[_EPSILON[normalization.target]]))
    shift = (_numpy(values[bias]) if bias is not None else np.zeros_like(mean)) - mean
    return weight * scale.reshape(-1, 1, 1, 1), scale * shift + beta


def _computed(values: dict[Node, Tensor]) -> set[Node]:
    """The values that some arithmetic made: another order of the same arithmetic rounds otherwise."""
    found: set[Node] = set()
    for node, value in values.items():
        if not value.is_floating_point():
            continue  # what is computed of integers, such as an index, is exact
        made = node.op == "call_function" and node.target not in _MOVEMENT
        if made or any(source in found for source in node.all_input_nodes) or _passes_several(node):
            found.add(node)
    return found


def _passes_several(node: Node) -> bool:
    """Whether it takes one of several results of an arithmetic node, which is no single tensor."""
    return node.target is operator.getitem and node.all_input_nodes[0].target not in _MOVEMENT


def _numpy(tensor: Tensor) -> Array:
    return np.asarray(tensor.detach().float().cpu().numpy())
