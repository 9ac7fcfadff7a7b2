# SPDX-License-Identifier: Apache-2.0
"""The weights of a captured program, which a package that was lowered from it has to contain."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Node

from vitedge.export.coreml.quantized import BYTES
from vitedge.export.coreml.weights import Weight
from vitedge.mlprogram.blobs import Array
from vitedge.program.batch_norm import BatchNorm, batch_norm_of, folds_into
from vitedge.program.constants import constant_values, sources
from vitedge.program.modules import innermost_module
from vitedge.program.program import Program
from vitedge.program.qdq import CONSTANTS

_ATEN = torch.ops.aten
_MOVEMENT = frozenset(
    {
        _ATEN.view.default, _ATEN.reshape.default, _ATEN._unsafe_view.default, _ATEN.permute.default,
        _ATEN.transpose.int, _ATEN.t.default, _ATEN.expand.default, _ATEN.index.Tensor, _ATEN.unsqueeze.default,
        _ATEN.squeeze.dim, _ATEN.select.int, _ATEN.slice.Tensor, _ATEN.clone.default, _ATEN.contiguous.default,
        _ATEN.cat.default, _ATEN.flatten.using_ints, _ATEN.unbind.int, _ATEN.alias.default, operator.getitem,
    }
)  # fmt: skip
"""Operations that move values and compute nothing: a weight that passes through them stays exact."""


def expected_weights(program: Program) -> dict[str, Weight]:
    """Returns every weight in the form in which it meets the image, float32; shared with the program where possible.

    Values that the program computes from weights alone are computed here too: a bias table that is looked up, a
    standardized weight. A batch normalization counts as folded into the convolution before it. A quantized weight is
    given by its integers, as they are, and their scales.

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
    """Yields what Core ML holds in place of a weight that is dequantized; see `write_constants` for biases."""
    arguments: Any = node.args
    integers, scale, zero_point, *_ = arguments
    if values[integers].dtype not in BYTES:
        yield integers.name, Weight(_numpy(values[node]), module)
        return
    yield integers.name, Weight(np.asarray(values[integers].detach().cpu().numpy()), module)
    yield scale.name, Weight(_numpy(values[scale]), module)
    yield zero_point.name, Weight(_numpy(values[zero_point]).astype(np.int8), module)


def fold(normalization: Node, values: Mapping[Node, Tensor]) -> tuple[Array, Array]:
    """Returns weight and bias, float32, of a convolution that does its batch normalization too.

    Computed by NumPy, as coremltools does it, so that not even the rounding differs.

    Args:
        normalization: for which `vitedge.program.batch_norm.folds_into` is not None.
        values: the tensors that do not depend on the image.
    """
    convolution: Any = normalization.args[0]
    bias = convolution.args[2] if len(convolution.args) > 2 else None
    norm = batch_norm_of(normalization, values.get)
    if norm is None:
        raise ValueError(f"{normalization.name} does not normalize by constants")
    weight, gamma, beta = _numpy(values[convolution.args[1]]), _numpy(norm.weight), _numpy(norm.bias)
    arrays = BatchNorm(gamma, beta, _numpy(norm.mean), _numpy(norm.variance), norm.epsilon)
    return arrays.fold(weight, None if bias is None else _numpy(values[bias]), np.sqrt)


def _computed(values: dict[Node, Tensor]) -> set[Node]:
    """Returns the values that arithmetic made: another order of the same arithmetic rounds differently."""
    found: set[Node] = set()
    for node, value in values.items():
        if not value.is_floating_point():
            continue  # what is computed of integers, such as an index, is exact
        made = node.op == "call_function" and node.target not in _MOVEMENT
        if made or any(source in found for source in node.all_input_nodes) or _passes_several(node):
            found.add(node)
    return found


def _passes_several(node: Node) -> bool:
    """Returns whether it takes one of several results of an arithmetic node, which is no single tensor."""
    return node.target is operator.getitem and node.all_input_nodes[0].target not in _MOVEMENT


def _numpy(tensor: Tensor) -> Array:
    return np.asarray(tensor.detach().float().cpu().numpy())
