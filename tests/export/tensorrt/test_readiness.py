# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import parser

from tests.export import tiny
from tests.export.tensorrt.engine_files import needs_rtx
from vitedge.errors import UnreadableArtifact
from vitedge.export.tensorrt.readiness import CHECKS, check, check_graph
from vitedge.export.to_onnx import lower
from vitedge.recipe import ResolvedRecipe

WEIGHT = ", ".join(["1"] * 64)
ATTENTION = f"""
<ir_version: 8, opset_import: ["" : 17]>
attention (float[1,2,4,4] q, float[1,2,4,4] k, float[1,2,4,4] v, float[1,1,1,4] mask) => (float[1,4,8] y)
<float factor = {{0.5}}, float s = {{0.05}}, int8 zero = {{0}}, float s_p = {{0.0078740157}},
 int64[3] shape = {{1, 4, 8}}, int8[8,8] weight = {{{WEIGHT}}}, float[8] s_w = {{1, 1, 1, 1, 1, 1, 1, 1}},
 float[8] g = {{1, 1, 1, 1, 1, 1, 1, 1}}, int32[8] bias = {{1, 1, 1, 1, 1, 1, 1, 1}},
 float[4] sizes = {{1, 1, 1, 1}}, int8 low = {{-127}}, int8 high = {{127}}>
{{
  q_f = Mul (q, factor)
  q_i = QuantizeLinear (q_f, s, zero)
  q_d = DequantizeLinear (q_i, s, zero)
  k_i = QuantizeLinear (k, s, zero)
  k_d = DequantizeLinear (k_i, s, zero)
  k_t = Transpose <perm = [0, 1, 3, 2]> (k_d)
  scores = MatMul (q_d, k_t)
  sum = Add (scores, mask)
  p = Softmax <axis = -1> (sum)
  p_i = QuantizeLinear (p, s_p, zero)
  p_d = DequantizeLinear (p_i, s_p, zero)
  v_i = QuantizeLinear (v, s, zero)
  v_d = DequantizeLinear (v_i, s, zero)
  c = MatMul (p_d, v_d)
  c_t = Transpose <perm = [0, 2, 1, 3]> (c)
  c_r = Reshape (c_t, shape)
  c_i = QuantizeLinear (c_r, s, zero)
  c_d = DequantizeLinear (c_i, s, zero)
  w_d = DequantizeLinear <axis = 1> (weight, s_w)
  out = MatMul (c_d, w_d)
  y = LayerNormalization <axis = -1> (out, g, g)
}}
"""
FAULTS = {
    "opset 18": ([('"" : 17', '"" : 18')], "opset 18 instead of 17"),
    "another operator set": (
        [('["" : 17]', '["" : 17, "com.microsoft" : 1]'), ("y = LayerN", "z = com.microsoft.Gelu (out)\n  y = LayerN")],
        "TensorRT does not read Gelu",
    ),
    "a side that is free": ([("float[1,2,4,4] q", "float[1,2,N,4] q")], "q has no fixed shape"),
    "unsigned integers": ([("int8 zero =", "uint8 zero =")], "is of uint8, not int8"),
    "the operator's own zero point": ([("QuantizeLinear (v, s, zero)", "QuantizeLinear (v, s)")], "v_i is of uint8"),
    "a zero point": ([("zero = {0}", "zero = {3}")], "q_i has a zero point other than 0"),
    "a bias in int32": (
        [("  y = LayerNormalization <axis = -1> (out,", "  b = DequantizeLinear <axis = 0> (bias, s_w)\n"
          "  biased = Add (out, b)\n  y = LayerNormalization <axis = -1> (biased,")],
        "b is of int32, not int8",
    ),
    "a tighter clamp": (
        [("  v_d = DequantizeLinear (v_i,", "  v_c = Clip (v_i, low, high)\n  v_d = DequantizeLinear (v_c,")],
        "Clip reads the integers of v_i",
    ),
    "a norm in its parts": (
        [("  y = LayerNormalization <axis = -1> (out, g, g)",
          "  m = ReduceMean <axes = [2]> (out)\n  d = Sub (out, m)\n"
          "  square = Mul (d, d)\n  variance = ReduceMean <axes = [2]> (square)\n  moved = Add (variance, s)\n"
          "  deviation = Sqrt (moved)\n  y = Div (d, deviation)")],
        "deviation belongs to a LayerNorm in its parts",
    ),
    "a cubic resize": (
        [("  q_f = Mul (q, factor)", '  q_r = Resize <mode = "cubic"> (q, , sizes)\n  q_f = Mul (q_r, factor)')],
        "q_r is a cubic Resize",
    ),
    "a smoothed resize": (
        [("  q_f = Mul (q, factor)", "  q_r = Resize <antialias = 1> (q, , sizes)\n  q_f = Mul (q_r, factor)")],
        "q_r is a Resize with antialiasing",
    ),
    "values in float": ([("c = MatMul (p_d, v_d)", "c = MatMul (p_d, v)")], "of p is quantized without its value"),
    "probabilities in float": ([("c = MatMul (p_d,", "c = MatMul (p,")], "without its probabilities"),
    "keys in float": ([("Transpose <perm = [0, 1, 3, 2]> (k_d)", "Transpose <perm = [0, 1, 3, 2]> (k)")], "its key"),
    "a result in float": ([("out = MatMul (c_d,", "out = MatMul (c_r,")], "without its context"),
    "a factor on the scores": (
        [("sum = Add (scores, mask)", "scaled = Mul (scores, factor)\n  sum = Add (scaled, mask)")],
        "Mul scaled stands between the scores and their softmax",
    ),
    "scores in integers": (
        [("sum = Add (scores, mask)", "s_i = QuantizeLinear (scores, s, zero)\n"
          "  s_d = DequantizeLinear (s_i, s, zero)\n  sum = Add (s_d, mask)")],
        "QuantizeLinear s_i stands between",
    ),
}  # fmt: skip


def write(path: Path, *changes: tuple[str, str]) -> Path:
    text = ATTENTION
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    model = parser.parse_model(text)
    onnx.save(model, path)
    return path


def test_a_quantized_attention_as_it_should_be_passes(tmp_path: Path) -> None:
    path = write(tmp_path / "good.onnx")
    report = check_graph(path)
    assert report.passed
    assert report.checks == tuple(phrase for phrase, _ in CHECKS)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    shapes = {"q": (1, 2, 4, 4), "k": (1, 2, 4, 4), "v": (1, 2, 4, 4), "mask": (1, 1, 1, 4)}
    (result,) = session.run(None, {name: np.ones(shape, np.float32) for name, shape in shapes.items()})
    assert np.isfinite(np.asarray(result)).all()


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_each_fault_is_found_and_named(fault: str, tmp_path: Path) -> None:
    changes, finding = FAULTS[fault]
    report = check_graph(write(tmp_path / "bad.onnx", *changes))
    assert not report.passed
    assert finding in report.reason
    assert len(report.checks) == len(CHECKS) - 1  # nothing else is blamed


def test_an_attention_in_float_is_left_alone_though_its_projection_is_quantized(tmp_path: Path) -> None:
    float_operands = [(f"_d = DequantizeLinear ({name}_i, s, zero)", f"_d = Identity ({name})") for name in "kv"]
    changes = [
        *[(f"{name}{old}", f"{name}{new}") for name, (old, new) in zip("kv", float_operands, strict=True)],
        ("q_d = DequantizeLinear (q_i, s, zero)", "q_d = Identity (q_f)"),
        ("p_d = DequantizeLinear (p_i, s_p, zero)", "p_d = Identity (p)"),
    ]
    assert "attention quantized whole or not at all" in check_graph(write(tmp_path / "f.onnx", *changes)).checks


def test_many_findings_of_a_kind_are_counted(tmp_path: Path) -> None:
    report = check_graph(write(tmp_path / "bad.onnx", ("zero = {0}", "zero = {3}")))
    assert "(and 7 more)" in report.reason  # five pairs have the zero point


def test_exported_files_are_read(tmp_path: Path) -> None:
    _, program = tiny.program("vit")
    lower(program, ResolvedRecipe(opset=17), tmp_path / "new.onnx")
    lower(program, ResolvedRecipe(opset=16), tmp_path / "old.onnx")
    assert check(tmp_path / "new.onnx").passed
    old = check_graph(tmp_path / "old.onnx")
    assert "LayerNorm in its parts" in old.reason
    assert check(tmp_path / "old.onnx", target="opset 16").passed


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "no.onnx").write_bytes(b"\x08\x07nothing")
    with pytest.raises(UnreadableArtifact, match="is not an ONNX model"):
        check(tmp_path / "no.onnx")


@needs_rtx
def test_the_parser_of_tensorrt_reads_the_file_too(tmp_path: Path) -> None:
    report = check(write(tmp_path / "bad.onnx", ("zero = {0}", "zero = {3}")))
    assert "; bad.onnx cannot be read by TensorRT's parser: QuantizeLinear: its zero point has to be 0" in report.reason
