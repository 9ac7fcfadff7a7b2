# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tests.export import tiny
from vitedge.export.tensorrt.eligibility import remarks
from vitedge.export.tensorrt.graph import OnnxGraph, read_graph
from vitedge.export.tensorrt.readiness import check_graph
from vitedge.export.tensorrt.request import EngineRequest
from vitedge.export.tensorrt.sparsity import with_sparse_kernels
from vitedge.export.to_onnx import lower
from vitedge.program.sparsity import is_two_of_four
from vitedge.recipe import ResolvedRecipe

WIDE = np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32)
"""``(out, in)``."""
SPARSE = WIDE * np.tile([1, 0, 0, 1], 2).astype(np.float32)


def test_four_weights_in_a_row_hold_two_zeros() -> None:
    assert is_two_of_four(SPARSE)
    assert not is_two_of_four(WIDE)
    assert not is_two_of_four(SPARSE.T)  # the pattern lies along the other axis
    assert not is_two_of_four(np.zeros((2, 6)))  # six is no multiple of four


@pytest.mark.parametrize("form", ["MatMul", "MatMul with a transposition", "Gemm", "Conv", "dequantized"])
def test_the_pattern_is_looked_for_along_the_axis_that_is_summed_over(form: str) -> None:
    for weight, expected in ((SPARSE, 1), (WIDE, 0), (np.ascontiguousarray(SPARSE.T.reshape(6, 8)), 0)):
        found = remarks(OnnxGraph(_model(form, weight)))
        assert len(found) == expected, (form, found)


@pytest.mark.parametrize(
    ("weight", "capability", "options", "expected"),
    [
        (SPARSE, "SM80", {"tf32": True}, {"tf32": True, "sparse_weights": True}),
        (SPARSE, "SM120", {}, {"sparse_weights": True}),
        (SPARSE, "SM75", {}, {}),  # Turing has no sparse tensor cores
        (WIDE, "SM87", {}, {}),
        (SPARSE, "SM87", {"sparse_weights": False}, {"sparse_weights": False}),
    ],
)
def test_sparse_kernels_are_allowed_where_weights_and_gpu_have_them(
    weight: np.ndarray, capability: str, options: dict[str, bool], expected: dict[str, bool]
) -> None:
    request = EngineRequest(Path("a.onnx"), Path("a.engine"), (capability,), options=options)
    graph = OnnxGraph(_model("Gemm", weight))
    assert with_sparse_kernels(request, graph, capability).options == expected


def _model(form: str, weight: np.ndarray) -> onnx.ModelProto:
    """A product of ``(2, in)``, or of ``(1, in, 2, 2)``, and a weight ``(out, in)``."""
    stored, nodes = weight, [helper.make_node("MatMul", ["x", "w"], ["y"])]
    shape = [2, weight.shape[1]]
    if form == "MatMul":
        stored = weight.T
    elif form == "MatMul with a transposition":
        nodes = [
            helper.make_node("Transpose", ["w"], ["t"], perm=[1, 0]),
            helper.make_node("MatMul", ["x", "t"], ["y"]),
        ]
    elif form == "Gemm":
        nodes = [helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)]
    elif form == "Conv":
        stored, shape = weight[:, :, None, None], [1, weight.shape[1], 2, 2]
        nodes = [helper.make_node("Conv", ["x", "w"], ["y"])]
    else:
        stored = (weight.T * 20).astype(np.int8)
        nodes = [
            helper.make_node("DequantizeLinear", ["w", "scale"], ["d"]),
            helper.make_node("MatMul", ["x", "d"], ["y"]),
        ]
    constants = [
        numpy_helper.from_array(np.ascontiguousarray(stored), "w"),
        numpy_helper.from_array(np.float32(0.05), "scale"),
    ]
    inputs = [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)]
    outputs = [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)]
    return helper.make_model(helper.make_graph(nodes, "g", inputs, outputs, constants))


def test_heads_of_a_size_that_is_not_listed_are_a_remark_and_no_fault(tmp_path: Path) -> None:
    _, program = tiny.program("mobilevit")
    lower(program, ResolvedRecipe(form="tensorrt", opset=17), tmp_path / "plain.onnx")
    lower(program, ResolvedRecipe(form="tensorrt", opset=17, pad_heads=True), tmp_path / "padded.onnx")
    report = check_graph(tmp_path / "plain.onnx")
    assert report.passed
    assert "1 of 1 attentions" in report.remarks[0]
    assert "--pad-heads" in report.remarks[0]
    assert remarks(read_graph(tmp_path / "padded.onnx")) == ()
