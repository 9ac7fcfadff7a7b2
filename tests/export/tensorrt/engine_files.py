# SPDX-License-Identifier: Apache-2.0
"""ONNX files in the forms that engines are built from, each made by hand from what an export writes today."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from tests.export import tiny
from tests.export.quantized_files import written
from vitedge.export.tensorrt.building import BUILDERS, build
from vitedge.export.tensorrt.records import EngineRecord
from vitedge.export.tensorrt.request import EngineRequest
from vitedge.export.to_onnx import lower
from vitedge.recipe import ResolvedRecipe
from vitedge.registry import missing

needs_rtx = pytest.mark.skipif(
    bool(missing(BUILDERS, "tensorrt-rtx")),
    reason=f"needs TensorRT for RTX: {BUILDERS['tensorrt-rtx'].install}",
)
"""Skips a test that builds where the builder is not installed."""
BATCHES = {"image": ((1, 3, 32, 32), (2, 3, 32, 32), (4, 3, 32, 32))}


@cache
def float16(name: str, batch: int | str = 1) -> bytes:
    """A tiny model in half precision."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        lower(tiny.program(name, batch)[1], ResolvedRecipe(opset=18, precision="fp16", batch=batch), path)
        return path.read_bytes()


@cache
def int8(name: str, *, rest: str = "fp32", apart: bool = False) -> bytes:
    """A tiny model in int8.

    Args:
        name: one of `tiny.NAMES`.
        rest: precision of what is not quantized, ``fp32`` or ``fp16``.
        apart: whether queries, keys and values are three products instead of one.
    """
    model = onnx.load_from_string(written(name, "int8")[0])
    if apart:
        _split_qkv(model)
    if rest == "fp16":
        _halve(model)
    return model.SerializeToString()


@cache
def weights_int8(name: str) -> bytes:
    """A tiny model in half precision whose MatMuls dequantize their weights."""
    model = onnx.load_from_string(float16(name))
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.input[1] in weights:
            values = numpy_helper.to_array(weights[node.input[1]]).astype(np.float32)
            scale = np.abs(values).max(0) / 127
            operands, result = [f"{node.name}.integers", f"{node.name}.scale"], f"{node.name}.weight"
            _add(model, operands[0], np.round(values / scale).astype(np.int8))
            _add(model, operands[1], scale.astype(np.float16))
            dequantize = node.name.replace("MatMul", "DequantizeLinear")
            nodes.append(helper.make_node("DequantizeLinear", operands, [result], dequantize, axis=1))
            node.input[1] = result
        nodes.append(node)
    return _finished(model, nodes).SerializeToString()


def built(folder: Path, content: bytes, *targets: str, dynamic: bool = False) -> EngineRecord:
    """The record of an engine of a file; the engine is ``model.engine`` in the folder, the file ``model.onnx``."""
    (folder / "model.onnx").write_bytes(content)
    shapes = BATCHES if dynamic else {}
    return build(EngineRequest(folder / "model.onnx", folder / "model.engine", targets or ("SM86",), shapes))


def _halve(model: ModelProto) -> None:
    """Everything in float32 becomes float16, scales included, which opset 19 allows; inputs and outputs are cast."""
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            half = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(half, tensor.name))
    source, target = model.graph.input[0].name, model.graph.output[0].name
    names = {source: "half.input", target: "half.output"}
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    enter = helper.make_node("Cast", [source], ["half.input"], "Cast", to=TensorProto.FLOAT16)
    leave = helper.make_node("Cast", ["half.output"], [target], "Cast_1", to=TensorProto.FLOAT)
    _finished(model, [enter, *model.graph.node, leave])


def _split_qkv(model: ModelProto) -> None:
    """One product that is added to and then split into queries, keys and values becomes three, of the same input."""
    replaced = {node.name: node for node in model.graph.node if node.op_type == "Gather" and ".attn/" in node.name}
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        module, _, operator = node.name.partition("/")
        if module.endswith(".attn") and operator in ("Reshape", "Transpose"):
            continue
        if node.name not in replaced:
            nodes.append(node)
        elif operator == "Gather":
            for part, result in enumerate(("Gather", "Gather_1", "Gather_2")):
                nodes += _part(model, f"{module}.qkv", part, f"{module}/{result}")
    apart = [node for node in nodes if not node.name.endswith(_JOINED)]
    _finished(model, apart)


_JOINED = (".qkv/DequantizeLinear_1", ".qkv/MatMul", ".qkv/Add")
"""The nodes of the one product."""


def _part(model: ModelProto, module: str, part: int, result: str) -> list[NodeProto]:
    """The nodes of queries, keys or values: a product of a third of the weight, its bias, and the axes of heads."""
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    origin = {
        "integers": f"{module}/DequantizeLinear_1.0",
        "scale": f"{module}.weight_scale",
        "bias": f"{module}/Add.1",
    }
    name = f"{module}.{'qkv'[part]}"
    for kind, joined in origin.items():
        _add(model, f"{name}.{kind}", np.split(values[joined], 3, axis=-1)[part])
    if "heads" not in values:
        _add(model, "heads", np.array([1, 17, 3, 16]))
    return [
        helper.make_node(
            "DequantizeLinear", [f"{name}.integers", f"{name}.scale"], [f"{name}.w"], f"{name}/DequantizeLinear", axis=1
        ),
        helper.make_node("MatMul", [f"{module}/DequantizeLinear", f"{name}.w"], [f"{name}.m"], f"{name}/MatMul"),
        helper.make_node("Add", [f"{name}.m", f"{name}.bias"], [f"{name}.a"], f"{name}/Add"),
        helper.make_node("Reshape", [f"{name}.a", "heads"], [f"{name}.r"], f"{name}/Reshape"),
        helper.make_node("Transpose", [f"{name}.r"], [result], f"{name}/Transpose", perm=[0, 2, 1, 3]),
    ]


def _add(model: ModelProto, name: str, values: np.ndarray) -> None:
    model.graph.initializer.append(numpy_helper.from_array(values, name))


def _finished(model: ModelProto, nodes: list[NodeProto]) -> ModelProto:
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:], model.graph.value_info[:]
    model.graph.node.extend(copies)
    model.opset_import[0].version, model.ir_version = 19, 9
    return model
