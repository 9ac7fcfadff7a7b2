# SPDX-License-Identifier: Apache-2.0
"""Which weights of an ONNX graph are 2:4 sparse along the axis that their product sums over. Needs no PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto

from vitedge.export.tensorrt.graph import OnnxGraph
from vitedge.export.tensorrt.request import EngineRequest
from vitedge.program.sparsity import is_two_of_four

Read = Callable[[str], "NDArray[Any] | None"]
"""Returns the numbers of a stored tensor by its name; None where nothing of that name is stored."""
_PRODUCTS = ("MatMul", "Gemm", "Conv", "MatMulInteger", "MatMulNBits")
_OF_WEIGHTS = ("DequantizeLinear", "Cast", "Transpose")
_OPTION = "sparse_weights"
"""Name in `vitedge.export.tensorrt.classic_options.OPTIONS`."""
_FIRST = 80
"""The first compute capability with sparse tensor cores: Ampere."""
_PAIR = 2
"""Axes of a matrix."""


def count_sparse(model: ModelProto, read: Read) -> tuple[int, int]:
    """Returns how many weights of products are 2:4 sparse, and how many there are.

    Args:
        model: its weights need not be in it.
        read: gives them.
    """
    producers = {name: node for node in model.graph.node for name in node.output}
    found = [is_two_of_four(weight) for weight in _weights(model, producers, read)]
    return sum(found), len(found)


def with_sparse_kernels(request: EngineRequest, graph: OnnxGraph, capability: str) -> EngineRequest:
    """Returns a request that lets the classic builder choose sparse kernels, where they can be faster.

    It does so where a weight is 2:4 and the GPU has sparse tensor cores, unless the request says otherwise. The builder
    times them against dense ones, and takes the faster.

    Args:
        request: of the engine.
        graph: of its file.
        capability: of the GPU, such as ``SM87``.
    """
    if _OPTION in request.options or int(capability.removeprefix("SM")) < _FIRST:
        return request
    sparse, _ = count_sparse(graph.model, graph.numbers)
    return replace(request, options={**request.options, _OPTION: True}) if sparse else request


def _weights(model: ModelProto, producers: Mapping[str, NodeProto], read: Read) -> Iterator[NDArray[Any]]:
    """Yields the weights of products, the axis that is summed over last."""
    for node in model.graph.node:
        if node.op_type == "MatMulNBits":
            packed = read(node.input[1])
            if packed is not None:
                yield _unpacked(node, packed)
        elif node.op_type in _PRODUCTS:
            for operand, name in enumerate(node.input[:2]):
                weight = _value(producers, read, name)
                if weight is not None and weight.ndim >= _PAIR:
                    yield _summed_last(node, operand, weight)
                    break


def _value(producers: Mapping[str, NodeProto], read: Read, name: str) -> NDArray[Any] | None:
    """Returns the stored numbers of a constant, integers where it is dequantized, in the axes in which it is read."""
    producer = producers.get(name)
    if producer is None or producer.op_type not in _OF_WEIGHTS:
        return read(name)
    stored = _value(producers, read, producer.input[0])
    if stored is None or producer.op_type == "Cast":
        return stored
    if producer.op_type == "Transpose":
        return np.transpose(stored, next((list(one.ints) for one in producer.attribute if one.name == "perm"), None))
    zero_point = read(producer.input[2]) if len(producer.input) > 2 and producer.input[2] else None
    # One zero point that is not 0 would be the integer that stands for zero; vitedge writes none.
    return stored if zero_point is None or not zero_point.any() else stored.astype(np.int16) - zero_point.flat[0]


def _unpacked(node: NodeProto, packed: NDArray[Any]) -> NDArray[Any]:
    """Returns the integers of a ``MatMulNBits``, ``(out, in)``: by block, lower half first, zero in the middle."""
    settings = {attribute.name: attribute.i for attribute in node.attribute}
    rows = packed.reshape(settings["N"], -1)
    bits = settings.get("bits", 4)
    if bits == 4:
        rows = np.stack((rows & 15, rows >> 4), axis=2).reshape(settings["N"], -1)
    return np.asarray(rows[:, : settings["K"]].astype(np.int16) - 2 ** (bits - 1))


def _summed_last(node: NodeProto, operand: int, weight: NDArray[Any]) -> NDArray[Any]:
    if node.op_type == "Conv":
        return np.moveaxis(weight, 1, -1)
    flag = ("transA", "transB")[operand]
    transposed = any(attribute.name == flag and attribute.i for attribute in node.attribute)
    is_last = transposed == bool(operand)  # the first operand sums over its last axis, the second over the one before
    return weight if is_last else weight.swapaxes(-1, -2)
