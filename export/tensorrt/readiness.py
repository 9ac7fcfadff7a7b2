# SPDX-License-Identifier: Apache-2.0
"""Whether TensorRT will read an ONNX file and fuse what it can, as far as the graph and a parser show it without a GPU.

The rules are those of its developer's guide (explicit quantization, fused attention) and of onnx-tensorrt's list of
operators: Q/DQ in int8 with zero points of 0, the two side by side; int8 attention only with all of its operands
quantized and its factor on the query; no cubic Resize. A bias in int32 is refused (onnx/onnx-tensorrt#850), and what it
rounds goes from -128 to 127 (NVIDIA/TensorRT#1796), so that nothing has to clamp tighter. Where TensorRT for RTX is
installed its parser, whose code is that of TensorRT 10, reads the file too. It is a check of reading, not of building.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from onnx import NodeProto, TensorProto, numpy_helper

from vitedge import registry
from vitedge.export.tensorrt.attention import attentions_of, scores_of
from vitedge.export.tensorrt.eligibility import remarks
from vitedge.export.tensorrt.graph import OnnxGraph, read_graph
from vitedge.export.tensorrt.reading import PARSERS, refusal
from vitedge.records import StructureReport

OPSET = 17
"""The newest opset that TensorRT 8.6 reads."""
_LAYER_NORMALIZATION_SINCE = 17
_UNREAD = frozenset(
    {"QLinearMatMul", "QLinearConv", "MatMulInteger", "ConvInteger", "DynamicQuantizeLinear", "MatMulNBits"}
)
_MOST_NAMED = 3
_HIGHEST_RANK = 8
"""Most axes of a tensor in TensorRT (``Dims::MAX_DIMS``)."""
_PARSER = "tensorrt-rtx"


def check(path: Path, target: str = f"opset {OPSET}") -> StructureReport:
    """Checks that TensorRT will read a file and fuse it; the report's reason holds every finding.

    Args:
        path: an ONNX file, its weights in it or beside it.
        target: the opset that the file has to have, in the form of `Artifact.target`.

    Raises:
        UnreadableArtifact: it is no ONNX model.
    """
    report = check_graph(path, target)
    if registry.missing(PARSERS, _PARSER) or not registry.works_here(PARSERS, _PARSER):
        return report
    refused = refusal(path, _PARSER).rstrip(".").replace(str(path), path.name)
    read = () if refused else (f"read by the parser of {PARSERS[_PARSER].title}",)
    reasons = "; ".join(filter(None, (report.reason, refused)))
    return replace(report, checks=(*report.checks, *read), passed=not reasons, reason=reasons)


def check_graph(path: Path, target: str = f"opset {OPSET}") -> StructureReport:
    """Checks what the graph alone shows; see `check`."""
    graph = read_graph(path)
    opset = int(target.removeprefix("opset "))
    findings = {phrase: find(graph, opset) for phrase, find in CHECKS}
    return StructureReport(
        artifact=path.name,
        checks=tuple(phrase for phrase, found in findings.items() if not found),
        passed=not any(findings.values()),
        reason="; ".join(_tell(found) for found in findings.values() if found),
        remarks=remarks(graph),
    )


def _tell(found: Sequence[str]) -> str:
    rest = f" (and {len(found) - _MOST_NAMED} more)" if len(found) > _MOST_NAMED else ""
    return "; ".join(found[:_MOST_NAMED]) + rest


def _wrong_opset(graph: OnnxGraph, opset: int) -> list[str]:
    found = [entry.version for entry in graph.model.opset_import if entry.domain in ("", "ai.onnx")]
    return [] if found == [opset] else [f"opset {', '.join(map(str, found)) or 'unknown'} instead of {opset}"]


def _unread_operators(graph: OnnxGraph, _opset: int) -> list[str]:
    unread = {node.op_type for node in graph.nodes if node.op_type in _UNREAD or node.domain not in ("", "ai.onnx")}
    return [f"TensorRT does not read {kind}" for kind in sorted(unread)]


def _free_shapes(graph: OnnxGraph, _opset: int) -> list[str]:
    """Finds inputs with other dynamic sides than the batch, for which an engine is given its range of sizes."""
    return [
        f"{value.name} has no fixed shape"
        for value in graph.inputs()
        if not all(edge.dim_value > 0 for edge in value.type.tensor_type.shape.dim[1:])
    ]


def _other_integers(graph: OnnxGraph, _opset: int) -> list[str]:
    """Finds Q/DQ that are not of int8, or whose zero point is not 0."""
    found = []
    for node in graph.of("QuantizeLinear", "DequantizeLinear"):
        kind, zero_point = _integers(graph, node)
        if kind != TensorProto.INT8:
            name = TensorProto.DataType.Name(kind).lower() if kind else "no known type"
            found.append(f"{node.name or node.output[0]} is of {name}, not int8")
        elif zero_point is None or zero_point.any():
            found.append(f"{node.name or node.output[0]} has a zero point other than 0")
    return found


def _integers(graph: OnnxGraph, node: NodeProto) -> tuple[int, np.ndarray | None]:
    """Returns the type of the integers, 0 where it is unknown, and the zero point, None where that is no constant."""
    if len(node.input) > 2 and node.input[2]:
        tensor = graph.constant(node.input[2])
        return (0, None) if tensor is None else (tensor.data_type, numpy_helper.to_array(tensor))
    if node.op_type == "QuantizeLinear":  # the operator's default
        return TensorProto.UINT8, np.zeros(())
    tensor = graph.constant(node.input[0])
    if tensor is not None:
        return tensor.data_type, np.zeros(())
    producer = graph.before_movement(node.input[0])
    return (0, None) if producer is None or producer.op_type != "QuantizeLinear" else _integers(graph, producer)


def _separated(graph: OnnxGraph, _opset: int) -> list[str]:
    """Finds operators that compute with integers between QuantizeLinear and DequantizeLinear."""
    return [
        f"{consumer.op_type} reads the integers of {node.name or node.output[0]}"
        for node in graph.of("QuantizeLinear")
        for consumer in graph.after_movement(node.output[0])
        if consumer.op_type != "DequantizeLinear"
    ]


def _written_out_norms(graph: OnnxGraph, opset: int) -> list[str]:
    """Finds ``Sqrt(ReduceMean(...) + epsilon)``: the standard deviation of a LayerNorm written as primitives."""
    if opset < _LAYER_NORMALIZATION_SINCE:
        return []
    found = []
    for node in graph.of("Sqrt"):
        sum_of = graph.producer(node.input[0])
        terms = [] if sum_of is None or sum_of.op_type != "Add" else [graph.producer(name) for name in sum_of.input]
        if any(term is not None and term.op_type == "ReduceMean" for term in terms):
            found.append(f"{node.name or node.output[0]} belongs to a LayerNorm in its parts")
    return found


def _cubic(graph: OnnxGraph, _opset: int) -> list[str]:
    return [
        f"{node.name or node.output[0]} is a cubic Resize"
        for node in graph.of("Resize")
        if any(attribute.name == "mode" and attribute.s == b"cubic" for attribute in node.attribute)
    ]


def _antialiased(graph: OnnxGraph, _opset: int) -> list[str]:
    return [
        f"{node.name or node.output[0]} is a Resize with antialiasing"
        for node in graph.of("Resize")
        if any(attribute.name == "antialias" and attribute.i for attribute in node.attribute)
    ]


def _integer_products(graph: OnnxGraph, _opset: int) -> list[str]:
    return [
        f"{node.name or node.output[0]} multiplies integers of 64 bits"
        for node in graph.of("MatMul", "Gemm")
        if graph.type_of(node.input[0]).kind == "int64"
    ]


def _high_ranks(graph: OnnxGraph, _opset: int) -> list[str]:
    return [
        f"{node.name or node.output[0]} has {len(graph.type_of(node.output[0]).shape)} axes"
        for node in graph.nodes
        if len(graph.type_of(node.output[0]).shape) > _HIGHEST_RANK
    ]


def _half_quantized(graph: OnnxGraph, _opset: int) -> list[str]:
    """Finds attentions of which some operands are quantized and others are not."""
    found = []
    for attention in attentions_of(graph):
        inner = [quantized for name, quantized in attention.quantized.items() if name != "context"]
        if any(inner) and not all(attention.quantized.values()):
            left = ", ".join(name for name, quantized in attention.quantized.items() if not quantized)
            softmax = attention.softmax
            found.append(f"the attention of {softmax.name or softmax.output[0]} is quantized without its {left}")
    return found


def _changed_scores(graph: OnnxGraph, _opset: int) -> list[str]:
    """Finds operators other than the mask's Add between the scores and the softmax: they prevent fused attention."""
    return [
        f"{node.op_type} {node.name or node.output[0]} stands between the scores and their softmax"
        for softmax in graph.of("Softmax")
        for node in scores_of(graph, softmax)[1]
    ]


CHECKS: tuple[tuple[str, Callable[[OnnxGraph, int], list[str]]], ...] = (
    ("the opset", _wrong_opset),
    ("operators that TensorRT reads", _unread_operators),
    ("fixed shapes but for the batch", _free_shapes),
    ("int8 with zero points of 0", _other_integers),
    ("nothing between quantization and dequantization", _separated),
    ("LayerNormalization as one operator", _written_out_norms),
    ("no cubic Resize", _cubic),
    ("no Resize with antialiasing", _antialiased),
    ("no product of integers of 64 bits", _integer_products),
    (f"no tensor of more than {_HIGHEST_RANK} axes", _high_ranks),
    ("attention quantized whole or not at all", _half_quantized),
    ("the attention's factor on the query", _changed_scores),
)
"""The name of each check, and the function that finds its violations."""
