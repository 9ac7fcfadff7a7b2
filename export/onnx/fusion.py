# SPDX-License-Identifier: Apache-2.0
"""The layers of a quantized file that ONNX Runtime still computes in float.

Weights are stored as integers with their scales, and the optimizer of ONNX Runtime is to fuse them into kernels over
integers. Where it finds no pattern that it knows, it dequantizes the weight at every run and computes in float, which
is slower than the float file. The optimized graph that it writes shows it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import onnx
import onnxruntime

_PRODUCTS = frozenset({"MatMul", "Gemm", "FusedMatMul", "FusedGemm", "Conv", "FusedConv"})
"""Operators over float numbers in which a layer can end."""
_MOVEMENT = frozenset({"Transpose", "Reshape", "Squeeze", "Unsqueeze"})


def unfused(path: Path) -> tuple[str, ...]:
    """Returns the layers whose weight the file holds as integers and that ONNX Runtime computes in float.

    Args:
        path: an ONNX file whose nodes are named after modules, as `vitedge.export.to_onnx` names them.

    Returns:
        ``MODULE: WHAT`` for each, in order of execution; empty where everything is fused.
    """
    written = onnx.load(path, load_external_data=False).graph
    promised = {module_of(node) for node, dequantized in _with_weights(written) if dequantized}
    found: dict[str, None] = {}
    for node, dequantized in _with_weights(_optimized(path)):
        if module_of(node) in promised:
            when = "dequantized at every run" if dequantized else "made float when the file was loaded"
            found[f"{module_of(node)}: {node.op_type} in float, its weight is {when}"] = None
    return tuple(found)


def count_unpacked(path: Path) -> int:
    """Counts the layers that multiply float inputs by weights unpacked block by block (``MatMulNBits``)."""
    return sum(node.op_type == "MatMulNBits" for node in onnx.load(path, load_external_data=False).graph.node)


def module_of(node: onnx.NodeProto) -> str:
    """Returns the module that a node is named after."""
    return str(node.name.partition("/")[0] or node.op_type)


def _with_weights(graph: onnx.GraphProto) -> Iterator[tuple[onnx.NodeProto, bool]]:
    """Yields every product over floats with a constant factor, and whether that is dequantized at every run."""
    constants = {tensor.name for tensor in graph.initializer}
    producers = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        if node.op_type not in _PRODUCTS:
            continue
        origins = [_origin(name, producers) for name in node.input[:2]]
        dequantized = any(
            name in producers
            and producers[name].op_type == "DequantizeLinear"
            and producers[name].input[0] in constants
            for name in origins
        )
        if dequantized or any(name in constants for name in origins):
            yield node, dequantized


def _origin(name: str, producers: Mapping[str, onnx.NodeProto]) -> str:
    """Returns the name of the value before any data movement."""
    while name in producers and producers[name].op_type in _MOVEMENT:
        name = producers[name].input[0]
    return name


def _optimized(path: Path) -> onnx.GraphProto:
    """Returns the graph that ONNX Runtime runs."""
    with tempfile.TemporaryDirectory(prefix="vitedge-") as folder:
        written = Path(folder) / "optimized.onnx"
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.optimized_model_filepath = str(written)
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return onnx.load(written, load_external_data=False).graph
