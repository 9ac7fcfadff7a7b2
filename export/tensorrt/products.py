# SPDX-License-Identifier: Apache-2.0
"""The products and attentions of an ONNX file beside the kernels of the engine that was built from it.

What the file asks for is read from its graph; TensorRT's networks are strongly typed, so that a product in floating
point has the type of its values there. Two operands from a DequantizeLinear of int8 ask for a product of these integers
(explicit quantization in TensorRT's developer guide); one such operand, which is a weight, asks for a product in
floating point with weights that are dequantized.

What was found is read from the kernels. A kernel counts as one of int8 only where both operands reach its product as
int8; one that dequantizes an operand as it runs counts by the type that it multiplies in.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence

from onnx import NodeProto

from vitedge.export.tensorrt.attention import Attention, attentions_of, head_width, is_alone
from vitedge.export.tensorrt.graph import MOVEMENT, OnnxGraph
from vitedge.export.tensorrt.heads import fuses
from vitedge.export.tensorrt.records import EngineLayer, EngineProduct

PRODUCTS = ("MatMul", "Gemm", "Conv", "ConvTranspose")
_OF_WEIGHTS = MOVEMENT | {"DequantizeLinear"}
_KERNELS = frozenset({"gemm", "correlation", "deconv"})
"""Types of kernels that compute one product."""
_FUSED_ATTENTION = "_gemm_mha"
"""How the names of kernels begin that compute a whole attention."""
_PRODUCT_IN_FUSION = re.compile(r"Fc|Corr|Gemm|Bmm")
"""The product among the operators in the name of a ``runtime_fusion``, such as ``__myl_CastMulFcAdd``."""
_SUM_OF_PRODUCTS = "MulSum"
"""Operators in the name of a generated kernel that multiplies a matrix by a vector."""
_WIDEST = ("fp32", "bf16", "fp16", "fp8", "int8")


def match_products(
    graph: OnnxGraph, layers: Sequence[EngineLayer]
) -> tuple[tuple[EngineProduct, ...], tuple[EngineProduct, ...]]:
    """Returns the products and the attentions of an ONNX file, with what the kernels of its engine make of them.

    Args:
        graph: of the ONNX file.
        layers: the kernels of the engine.
    """
    kernels = _Kernels(layers)
    products = tuple(_product(graph, kernels, node) for node in _varying_products(graph))
    attentions = tuple(_attention(graph, kernels, attention) for attention in attentions_of(graph))
    return products, attentions


def name_of(node: NodeProto) -> str:
    """Returns the name that TensorRT's parser gives a node: its own, or one after its first output."""
    return str(node.name or f"node_of_{node.output[0]}")


def module_of(node: NodeProto) -> str:
    """Returns the module that a node is named after, as ``MODULE/OPERATOR``; empty where its name tells none."""
    module, slash, _ = str(node.name).partition("/")
    return module if slash else ""


class _Kernels:
    """The kernels of an engine by the ONNX nodes that they list."""

    def __init__(self, layers: Sequence[EngineLayer]) -> None:
        self._by_node: dict[str, list[EngineLayer]] = defaultdict(list)
        for layer in layers:
            for node in dict.fromkeys(layer.nodes):
                self._by_node[node].append(layer)

    def of_attention(self, node: str) -> list[EngineLayer]:
        """Returns the fused attentions that compute a node."""
        return [layer for layer in self._by_node[node] if layer.name.startswith(_FUSED_ATTENTION)]

    def of_product(self, node: str) -> list[EngineLayer]:
        """Returns the kernels that compute a product.

        More kernels list a node than compute it: what scales, rounds or dequantizes for it does too. So the first of
        these that there are: kernels named after the node, kernels of one product, attentions, fusions of a product
        with its neighbours, and sums of products in generated kernels.
        """
        listed = self._by_node[node]
        named = re.compile(re.escape(node) + r"(_U\d+)?_myl\d+_\d+")
        choices = (
            [layer for layer in listed if layer.kind in _KERNELS and named.fullmatch(layer.name)],
            [layer for layer in listed if layer.kind in _KERNELS],
            self.of_attention(node),
            [layer for layer in listed if layer.kind == "runtime_fusion" and _PRODUCT_IN_FUSION.search(layer.name)],
            [layer for layer in listed if _SUM_OF_PRODUCTS in layer.name],
        )
        return next((chosen for chosen in choices if chosen), [])


def _varying_products(graph: OnnxGraph) -> Iterator[NodeProto]:
    """Yields the products that depend on an input: one of two constants is computed by the builder."""
    for node in graph.of(*PRODUCTS):
        if not all(_is_constant(graph, name) for name in node.input[:2]):
            yield node


def _is_constant(graph: OnnxGraph, name: str) -> bool:
    """Returns whether a value is a weight, perhaps dequantized or moved, which the builder computes once."""
    producer = graph.producer(name)
    if producer is None or graph.constant(name) is not None:
        return graph.constant(name) is not None
    return producer.op_type in _OF_WEIGHTS and _is_constant(graph, producer.input[0])


def _product(graph: OnnxGraph, kernels: _Kernels, node: NodeProto) -> EngineProduct:
    integers = [_integers(graph, name) for name in node.input[:2]]
    floating = graph.type_of(node.output[0]).kind
    asked = "int8" if integers == ["int8", "int8"] else floating
    stored = "" if asked == "int8" else _stored_weights(graph, node)
    computing = kernels.of_product(name_of(node))
    found = _widest(_multiplied_in(layer, floating) for layer in computing)
    read = "" if not stored or not found else stored if any(stored in layer.constants for layer in computing) else found
    return EngineProduct(name_of(node), module_of(node), asked, found, _macs(graph, node), stored, read)


def _stored_weights(graph: OnnxGraph, node: NodeProto) -> str:
    """Returns the integer type of weights that are dequantized for a product; empty where they are not."""
    kinds = (_integers(graph, name) for name in node.input[:2] if _is_constant(graph, name))
    return next((kind for kind in kinds if kind), "")


def _attention(graph: OnnxGraph, kernels: _Kernels, attention: Attention) -> EngineProduct:
    operands = [attention.quantized[name] for name in ("query", "key", "probabilities", "value")]
    asked = "int8" if all(operands) else graph.type_of(attention.scores.output[0]).kind
    fused = kernels.of_attention(name_of(attention.softmax))
    macs = _macs(graph, attention.scores) + _macs(graph, attention.context)
    found = _widest(_multiplied_in(layer, asked) for layer in fused)
    fusable = fuses(head_width(graph, attention)) and not is_alone(graph, attention)
    name, module = name_of(attention.softmax), module_of(attention.softmax)
    return EngineProduct(name, module, asked, found, macs, expected=fusable)


def _integers(graph: OnnxGraph, name: str) -> str:
    """Returns the integer type that an operand is dequantized from; empty for any other operand."""
    producer = graph.before_movement(name)
    if producer is None or producer.op_type != "DequantizeLinear":
        return ""
    return graph.type_of(producer.input[0]).kind


def _multiplied_in(layer: EngineLayer, floating: str) -> str:
    """Returns the type in which a kernel multiplies.

    Args:
        layer: the kernel.
        floating: type of the product in the file, where it is one of floating point.
    """
    if layer.name.startswith(_FUSED_ATTENTION):
        # A mask or bias that is computed is an input too, in floating point.
        return "int8" if layer.inputs.count("int8") >= len(("query", "key", "value")) else _widest(layer.inputs)
    if _SUM_OF_PRODUCTS in layer.name and layer.kind not in _KERNELS:
        return floating  # generated kernels multiply no integers, and networks are strongly typed
    operands = (*layer.inputs, *layer.constants)
    before, _, _ = _PRODUCT_IN_FUSION.sub("|", layer.name, count=1).partition("|")
    if operands.count("int8") >= 2 and (layer.kind in _KERNELS or "Cast" not in before):
        return "int8"
    floats = [kind for kind in layer.inputs if kind != "int8"] or [kind for kind in operands if kind != "int8"]
    return _widest(floats)


def _widest(kinds: Iterator[str] | Sequence[str]) -> str:
    present = set(kinds)
    return next((kind for kind in _WIDEST if kind in present), "")


def _macs(graph: OnnxGraph, node: NodeProto) -> int:
    """Returns the multiply-accumulates of a product: the elements of its result times the terms of each."""
    first, second, result = (graph.type_of(name).shape for name in (*node.input[:2], node.output[0]))
    if not first or not second:
        return 0
    if node.op_type == "ConvTranspose":
        return math.prod(first) * math.prod(second[1:])
    if node.op_type == "Conv":
        return math.prod(result) * math.prod(second[1:])
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return math.prod(result) * first[0 if transposed else -1]
