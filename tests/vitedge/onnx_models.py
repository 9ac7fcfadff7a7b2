# SPDX-License-Identifier: Apache-2.0
"""Tiny ONNX files, written out by hand so that what they compute is known without any exporter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WEIGHT = np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32)


def write_model(path: Path, batch: int | str = 1, depth: int = 3, *, external: bool = False) -> Path:
    """``x`` times WEIGHT, ``depth`` times over; the value after step i is ``step_i`` and the last is ``y``."""
    names = ["x", *(f"step_{index}" for index in range(depth - 1)), "y"]
    nodes = [helper.make_node("MatMul", [before, "w"], [after]) for before, after in zip(names, names[1:])]  # noqa: B905, RUF007
    shape = [batch, 3, 4]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(WEIGHT, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    if external:
        onnx.save(model, path, save_as_external_data=True, location=path.name + ".data", size_threshold=0)
    else:
        onnx.save(model, path)
    return path


def expected(x: np.ndarray, depth: int = 3) -> np.ndarray:
    """Returns the outputs of the model."""
    for _ in range(depth):
        x = x @ WEIGHT
    return x
