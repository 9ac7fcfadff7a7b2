# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from vitedge.export.onnx.fusion import unfused


def write(path: Path, *, fusible: bool) -> Path:
    """Two layers on integers, one of them in a form that ONNX Runtime has no kernel for: its input is in float."""
    weights = np.random.default_rng(0).integers(-127, 128, (32, 32), dtype=np.int8)
    tensors = {
        "weight": weights,
        "weight_scale": np.full(32, 0.01, np.float32),
        "zeros": np.zeros(32, np.int8),
        "scale": np.float32(0.02),
        "zero_point": np.uint8(128),
    }

    def layer(module: str, read: str, result: str, *, rounded: bool) -> list[onnx.NodeProto]:
        name = {"name": f"{module}/DequantizeLinear"}
        nodes = [
            helper.make_node("DequantizeLinear", ["weight", "weight_scale", "zeros"], [f"{module}.w"], axis=1, **name)
        ]
        if rounded:
            grid = ["scale", "zero_point"]
            nodes += [
                helper.make_node("QuantizeLinear", [read, *grid], [f"{module}.q"], name=f"{module}/QuantizeLinear"),
                helper.make_node(
                    "DequantizeLinear", [f"{module}.q", *grid], [f"{module}.x"], name=f"{module}/DequantizeLinear_1"
                ),
            ]
            read = f"{module}.x"
        return [*nodes, helper.make_node("MatMul", [read, f"{module}.w"], [result], name=f"{module}/MatMul")]

    nodes = [
        *layer("first", "image", "middle", rounded=True),
        *layer("second", "middle", "output", rounded=fusible),
    ]
    shape = [1, 16, 32]
    graph = helper.make_graph(
        nodes,
        "two",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return path


def test_what_is_fused_whole_is_not_named(tmp_path: Path) -> None:
    assert unfused(write(tmp_path / "model.onnx", fusible=True)) == ()


def test_a_layer_whose_weight_is_dequantized_at_every_run_is_named(tmp_path: Path) -> None:
    (found,) = unfused(write(tmp_path / "model.onnx", fusible=False))
    assert found == "second: MatMul in float, its weight is dequantized at every run"


def test_a_float_file_promises_nothing(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    weight = numpy_helper.from_array(np.eye(4, dtype=np.float32), "weight")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("x", "y")]
    node = helper.make_node("MatMul", ["x", "weight"], ["y"], name="only/MatMul")
    graph = helper.make_graph([node], "one", ends[:1], ends[1:], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    assert unfused(path) == ()
