# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import onnx
import pytest
from onnx import parser

from tests.export.tensorrt.engine_files import float16
from tests.export.tensorrt.test_readiness import ATTENTION
from vitedge.export.tensorrt.attention import attentions_of
from vitedge.export.tensorrt.graph import OnnxGraph


def test_an_attention_is_found_with_its_products_and_what_of_it_is_quantized() -> None:
    (attention,) = attentions_of(OnnxGraph(parser.parse_model(ATTENTION)))
    assert [attention.scores.output[0], attention.softmax.output[0], attention.context.output[0]] == [
        "scores",
        "p",
        "c",
    ]
    assert attention.quantized == dict.fromkeys(("query", "key", "probabilities", "value", "context"), True)
    assert attention.on_scores == ()


@pytest.mark.parametrize(("name", "count"), [("vit", 2), ("swin", 3), ("pit", 2), ("mobilevit", 1), ("mobilevitv2", 0)])
def test_every_attention_of_an_export_is_found(name: str, count: int) -> None:
    """That of MobileViT v2 has no product of queries and keys."""
    found = list(attentions_of(OnnxGraph(onnx.load_from_string(float16(name)))))
    assert len(found) == count
    assert not any(any(attention.quantized.values()) for attention in found)
