# SPDX-License-Identifier: Apache-2.0
"""Attentions for which no fused kernel can be expected: what `summary` says of them, and what is built."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest
from onnx import parser

from tests.export.tensorrt.engine_files import needs_rtx
from vitedge.export.tensorrt.building import build
from vitedge.export.tensorrt.records import EngineProduct, EngineRecord
from vitedge.export.tensorrt.request import EngineRequest
from vitedge.export.tensorrt.summary import summary

ATTENTION = """
<ir_version: 10, opset_import: ["" : 19]>
attention (float16[BATCH,HEADS,17,64] q, float16[BATCH,HEADS,64,17] k, float16[BATCH,HEADS,17,64] v)
    => (float16[BATCH,HEADS,17,64] y) {
    s = MatMul (q, k)
    p = Softmax <axis = -1> (s)
    y = MatMul (p, v)
}
"""
RECORD = EngineRecord(**{entry.name: () for entry in fields(EngineRecord)})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("attentions", "words"),
    [
        ([("fp16", True)] * 4, "4 of 4 attentions fused"),
        ([("fp16", True), ("", True)], "1 of 2 attentions fused"),
        (
            [("fp16", True), *[("", False)] * 3],
            "1 of 4 attentions fused (no fused kernel is expected for 3: "
            "heads too narrow, too wide or odd, or one head of one image)",
        ),
        ([("fp16", False)], "1 of 1 attentions fused"),
    ],
)
def test_attentions_that_cannot_be_fused_are_told_apart(attentions: list[tuple[str, bool]], words: str) -> None:
    found = tuple(EngineProduct("softmax", "attn", "fp16", kind, expected=expected) for kind, expected in attentions)
    assert summary(replace(RECORD, attentions=found)) == words


@needs_rtx
@pytest.mark.parametrize(
    ("batch", "heads", "expected"), [("1", 1, False), ("2", 1, True), ("1", 2, True), ("n", 1, True)]
)
def test_one_head_of_one_image_is_the_attention_that_is_built_as_two_products(
    batch: str, heads: int, expected: bool, tmp_path: Path
) -> None:
    text = ATTENTION.replace("BATCH", batch).replace("HEADS", str(heads))
    (tmp_path / "model.onnx").write_bytes(parser.parse_model(text).SerializeToString())
    sides = {"q": (heads, 17, 64), "k": (heads, 64, 17), "v": (heads, 17, 64)}
    shapes = {name: tuple((size, *rest) for size in (1, 2, 4)) for name, rest in sides.items()} if batch == "n" else {}
    (found,) = build(EngineRequest(tmp_path / "model.onnx", tmp_path / "e.engine", ("SM86",), shapes)).attentions
    assert (found.expected, bool(found.found)) == (expected, expected)
