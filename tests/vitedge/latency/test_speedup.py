# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.export import tiny
from vitedge.latency.sampling import Rule
from vitedge.latency.speedup import compare_speed, sentence
from vitedge.recipe import ResolvedRecipe
from vitedge.records import LatencyRatio

SHORT = Rule(warmup_s=0.0, warmup_limit_s=0.05, samples=25, seconds=0.5, rounds=5)
LEFT = "head: Gemm in float, its weight is dequantized at every run"


def ratio(baseline: str, middle: float, verdict: str) -> LatencyRatio:
    return LatencyRatio("int8", baseline, middle, middle - 0.1, middle + 0.1, verdict)


def slow(path: Path) -> Path:
    """A file that is made to be slow: a large convolution whose weight is dequantized at every run."""
    shape, width = (1, *tiny.images(1).shape[1:]), 512
    weight = np.random.default_rng(0).integers(-127, 128, (width, shape[1], 5, 5), dtype=np.int8)
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["real"], axis=0, name="head/DequantizeLinear"),
        helper.make_node("Conv", ["image", "real"], ["logits"], name="head/Conv", pads=[2, 2, 2, 2]),
    ]
    tensors = {"w": weight, "s": np.full(width, 0.01, np.float32), "z": np.zeros(width, np.int8)}
    graph = helper.make_graph(
        nodes,
        "slow",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, (1, width, *shape[2:]))],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return path


def test_a_slow_file_is_called_slow_with_the_reason(tmp_path: Path) -> None:
    path = slow(tmp_path / "model.onnx")
    before = sorted(tmp_path.iterdir())
    found = compare_speed(path, tiny.program("vit")[1], ResolvedRecipe(precision="int8"), rule=SHORT)
    assert sorted(tmp_path.iterdir()) == before
    assert [one.baseline for one in found.ratios] == ["fp32", "fp16"]
    for one in found.ratios:
        assert one.low <= one.ratio <= one.high
        expected = found.milliseconds["int8"] / found.milliseconds[one.baseline]
        assert 0.5 < one.ratio / expected < 2.0  # that of the rounds beside that of all samples
    assert found.ratios[0].verdict == "slower"
    assert found.unfused == ("head: Conv in float, its weight is dequantized at every run",)
    assert "it is not faster than fp32" in found.text
    assert found.text.endswith("head: Conv in float, its weight is dequantized at every run")
    assert "\n" not in found.text


def test_what_is_faster_needs_no_reason() -> None:
    ratios = (ratio("fp32", 0.5, "faster"), ratio("fp16", 0.4, "faster"))
    text = sentence("int8", ratios, {"int8": 1.0}, (LEFT,))
    assert text == "int8 takes 1.00 ms here: 0.50 x fp32 (0.40 to 0.60), 0.40 x fp16 (0.30 to 0.50); it is faster"


def test_within_the_noise_is_not_faster() -> None:
    ratios = (ratio("fp32", 0.98, "no difference"), ratio("fp16", 0.4, "faster"))
    text = sentence("int8", ratios, {"int8": 1.0}, ())
    assert "it is not faster than fp32: ONNX Runtime computes every quantized layer with integers" in text


def test_of_weights_alone_size_is_the_gain() -> None:
    text = sentence("w4", (ratio("fp32", 1.5, "slower"),), {"w4": 1.0}, (), 17)
    assert text.endswith("unpacks the weights of 17 layers and computes in float32: only size is gained")


def test_a_long_list_of_reasons_is_cut() -> None:
    ratios = (ratio("fp32", 1.5, "slower"), ratio("fp16", 1.4, "slower"))
    text = sentence("w8", ratios, {"w8": 1.0}, (LEFT,) * 5)
    assert "not faster than fp32 and fp16" in text
    assert text.endswith(", and 2 more")
