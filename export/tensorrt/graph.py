# SPDX-License-Identifier: Apache-2.0
"""An ONNX graph as the checks of this folder read it: producers, consumers, constants, element types and shapes."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto

from vitedge.errors import UnreadableArtifact

MOVEMENT = frozenset({"Transpose", "Reshape", "Cast", "Identity", "Squeeze", "Unsqueeze"})
"""Operators that move values and compute none; a Cast rounds them at most."""
_SMALL = 1024
"""Constants of up to so many elements may be shapes, which inference reads."""
_SHORT = {"float": "fp32", "float16": "fp16", "bfloat16": "bf16"}


@dataclass(frozen=True)
class ValueType:
    """What a value of an ONNX graph is."""

    kind: str
    """Element type: ``fp32``, ``fp16``, ``bf16``, ``int8``, …; empty where it is not known."""
    shape: tuple[int, ...]
    """Sides; 1 for one that is dynamic or not known."""


UNKNOWN = ValueType("", ())


class OnnxGraph:
    """Producers and consumers of values, and the constants."""

    def __init__(self, model: ModelProto) -> None:
        self.model = model
        self.nodes: Sequence[NodeProto] = model.graph.node
        self._producers = {name: node for node in self.nodes for name in node.output}
        self._consumers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for name in dict.fromkeys(node.input):
                self._consumers[name].append(node)
        self._constants: dict[str, TensorProto] = {tensor.name: tensor for tensor in model.graph.initializer}
        for node in self.nodes:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self._constants[node.output[0]] = node.attribute[0].t

    def inputs(self) -> list[ValueInfoProto]:
        """Returns the inputs of the model that are no weights."""
        weights = {tensor.name for tensor in self.model.graph.initializer}
        return [value for value in self.model.graph.input if value.name not in weights]

    def of(self, *kinds: str) -> Iterator[NodeProto]:
        """Yields the nodes of these operators."""
        return (node for node in self.nodes if node.op_type in kinds)

    def producer(self, name: str) -> NodeProto | None:
        """Returns the node that makes a value; None for an input or a weight."""
        return self._producers.get(name)

    def consumers(self, name: str) -> list[NodeProto]:
        """Returns the nodes that read a value."""
        return self._consumers.get(name, [])

    def constant(self, name: str) -> TensorProto | None:
        """Returns the tensor of a constant; None for any other value."""
        return self._constants.get(name)

    def numbers(self, name: str) -> NDArray[Any] | None:
        """Returns the numbers of a constant; None for any other value."""
        tensor = self.constant(name)
        return None if tensor is None else np.asarray(onnx.numpy_helper.to_array(tensor))

    def before_movement(self, name: str) -> NodeProto | None:
        """Returns the producer of a value, data movement skipped."""
        producer = self.producer(name)
        while producer is not None and producer.op_type in MOVEMENT:
            producer = self.producer(producer.input[0])
        return producer

    def after_movement(self, name: str) -> list[NodeProto]:
        """Returns the consumers of a value, data movement skipped."""
        found: list[NodeProto] = []
        for consumer in self.consumers(name):
            found += self.after_movement(consumer.output[0]) if consumer.op_type in MOVEMENT else [consumer]
        return found

    def type_of(self, name: str) -> ValueType:
        """Returns the type of a value as ONNX's own inference finds it; `UNKNOWN` where it finds none."""
        return self._types.get(name, UNKNOWN)

    @cached_property
    def _types(self) -> Mapping[str, ValueType]:
        bare = _without_weights(self.model)
        try:
            model = onnx.shape_inference.infer_shapes(bare)
        except onnx.shape_inference.InferenceError:  # a graph that contradicts itself: what it declares is all there is
            model = bare
        values = (*model.graph.input, *model.graph.value_info, *model.graph.output)
        kept = {tensor.name: _type_of_tensor(tensor) for tensor in self.model.graph.initializer}
        return {**{value.name: _type_of(value) for value in values}, **kept}

    def is_dequantized(self, name: str) -> bool:
        """Returns whether a value is the result of a DequantizeLinear, data movement skipped."""
        producer = self.before_movement(name)
        return producer is not None and producer.op_type == "DequantizeLinear"


def read_graph(path: Path) -> OnnxGraph:
    """Returns the graph of an ONNX file, its weights in it or beside it.

    Raises:
        UnreadableArtifact: it is no ONNX model, or a file with its weights is missing or cut short.
    """
    try:
        return OnnxGraph(onnx.load(str(path)))
    except (DecodeError, OSError, ValueError, onnx.checker.ValidationError) as error:
        raise UnreadableArtifact(f"{path} is not an ONNX model, or is cut short.") from error


def element_type(code: int) -> str:
    """Returns the name of an element type of ONNX as the records of engines have it."""
    name = TensorProto.DataType.Name(code).lower()
    return "" if name == "undefined" else _SHORT.get(name, name)


def opset_of(model: ModelProto) -> int:
    """Returns the version of ONNX's own operators in a model; 0 where it uses none."""
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)


def _without_weights(model: ModelProto) -> ModelProto:
    """Returns the model with large weights as inputs: inference copies what it is given, and reads small ones alone."""
    bare = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    bare.graph.name = model.graph.name
    for field in ("node", "input", "output", "value_info", "sparse_initializer"):
        getattr(bare.graph, field).extend(getattr(model.graph, field))
    declared = {value.name for value in model.graph.input}
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) <= _SMALL:
            bare.graph.initializer.append(tensor)
        elif tensor.name not in declared:
            bare.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return bare


def _type_of_tensor(tensor: TensorProto) -> ValueType:
    return ValueType(element_type(tensor.data_type), tuple(tensor.dims))


def _type_of(value: ValueInfoProto) -> ValueType:
    tensor = value.type.tensor_type
    return ValueType(element_type(tensor.elem_type), tuple(side.dim_value or 1 for side in tensor.shape.dim))
