# SPDX-License-Identifier: Apache-2.0
"""ONNX files of a few nodes that no engine can be built from, each with one fault."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, numpy_helper, parser

GOOD = """
<ir_version: 9, opset_import: ["" : 19]>
layers (float16[1,16,32] x) => (float16[1,16,32] y)
<float16[32,32] weight, float16 s, int8 zero = {0}, int8[32,32] integers, float16[32] scales>
{
  ["first.proj/QuantizeLinear"] q = QuantizeLinear (x, s, zero)
  ["first.proj/DequantizeLinear"] d = DequantizeLinear (q, s, zero)
  ["first.proj/DequantizeLinear_1"] w = DequantizeLinear <axis = 1> (integers, scales)
  ["first.proj/MatMul"] a = MatMul (d, w)
  ["second.proj/MatMul"] y = MatMul (a, weight)
}
"""
"""A product of integers and one in float16, by the modules ``first.proj`` and ``second.proj``."""


def good(*changes: tuple[str, str], scale: float = 0.05) -> ModelProto:
    """The model of `GOOD`, with some of its text replaced, and with another scale of its activation."""
    text = GOOD
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    model = parser.parse_model(text)
    generator = np.random.default_rng(0)
    weights = {
        "weight": generator.standard_normal((32, 32)).astype(np.float16),
        "s": np.float16(scale),
        "scales": np.full(32, 0.01, np.float16),
        "integers": generator.integers(-127, 128, (32, 32)).astype(np.int8),
    }
    for name, values in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
    return model
