# SPDX-License-Identifier: Apache-2.0
"""What an ONNX file leaves TensorRT to gain: attentions that it does not fuse, and weights that are 2:4 sparse.

Neither is a fault of the file, so they are remarks and no findings. The head sizes are those of the developer's guide
("fused attention"); a group of four weights along the axis that a product sums over has to hold two zeros for the
sparse tensor cores of SM 8.0 and later ("structured sparsity").
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, numpy_helper

from vitedge.export.tensorrt.attention import attentions_of, head_width
from vitedge.export.tensorrt.graph import OnnxGraph
from vitedge.export.tensorrt.heads import fuses

_GROUP, _ZEROS = 4, 2
_PAIR = 2
"""Axes of a matrix."""
_OF_WEIGHTS = ("DequantizeLinear", "Cast", "Transpose")


def remarks(graph: OnnxGraph) -> tuple[str, ...]:
    """Returns a phrase for each remark: on attentions first, then on sparse weights."""
    return (*_on_attentions(graph), *_on_sparse_weights(graph))


def _on_attentions(graph: OnnxGraph) -> Iterator[str]:
    attentions = [(head_width(graph, one), all(one.quantized.values())) for one in attentions_of(graph)]
    others = Counter(width for width, integers in attentions if width and not fuses(width, integers=integers))
    if others:
        held = ", ".join(f"{count} of {width} channels" for width, count in sorted(others.items()))
        yield (
            f"{sum(others.values())} of {len(attentions)} attentions have heads of a size that TensorRT's guide does "
            f"not list as fused: {held}; --pad-heads widens them by zeros, exactly"
        )


def _on_sparse_weights(graph: OnnxGraph) -> Iterator[str]:
    found = [_weight(graph, node) for node in graph.of("MatMul", "Gemm", "Conv")]
    weights = [weight for weight in found if weight is not None]
    sparse = sum(is_sparse(weight) for weight in weights)
    if sparse:
        yield f"{sparse} of {len(weights)} weights are 2:4 sparse, for the sparse tensor cores of SM 8.0 and later"


def is_sparse(weight: NDArray[Any]) -> bool:
    """Returns whether each group of four weights holds at least two zeros.

    Args:
        weight: of any number type; its last axis is the one that the product sums over.
    """
    if weight.shape[-1] % _GROUP:
        return False
    zeros = (weight.reshape(-1, _GROUP) == 0).sum(axis=1)
    return bool((zeros >= _ZEROS).all())


def _weight(graph: OnnxGraph, node: NodeProto) -> NDArray[Any] | None:
    """Returns the weight of a product, with the axis that is summed over last; None where both operands vary."""
    for operand, name in enumerate(node.input[:2]):
        weight = _value(graph, name)
        if weight is not None and weight.ndim >= _PAIR:
            return _summed_last(node, operand, weight)
    return None


def _value(graph: OnnxGraph, name: str) -> NDArray[Any] | None:
    """Returns the stored numbers of a constant, integers where it is dequantized, in the axes in which it is read."""
    tensor, producer = graph.constant(name), graph.producer(name)
    if tensor is not None:
        return np.asarray(numpy_helper.to_array(tensor))
    if producer is None or producer.op_type not in _OF_WEIGHTS:
        return None
    stored = _value(graph, producer.input[0])
    if stored is None or producer.op_type != "Transpose":
        return stored
    return np.transpose(stored, next((list(entry.ints) for entry in producer.attribute if entry.name == "perm"), None))


def _summed_last(node: NodeProto, operand: int, weight: NDArray[Any]) -> NDArray[Any]:
    if node.op_type == "Conv":
        return np.moveaxis(weight, 1, -1)
    flag = ("transA", "transB")[operand]
    transposed = any(attribute.name == flag and attribute.i for attribute in node.attribute)
    is_last = transposed == bool(operand)  # the first operand sums over its last axis, the second over the one before
    return weight if is_last else weight.swapaxes(-1, -2)
