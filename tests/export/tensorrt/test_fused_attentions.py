# SPDX-License-Identifier: Apache-2.0
"""`summary` of attentions for which no fused kernel can be expected; needs no builder."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from vitedge.export.tensorrt.records import EngineProduct, EngineRecord
from vitedge.export.tensorrt.summary import summary

RECORD = EngineRecord(**{entry.name: () for entry in fields(EngineRecord)})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("attentions", "words"),
    [
        ([("fp16", True)] * 4, "4 of 4 attentions fused"),
        ([("fp16", True), ("", True)], "1 of 2 attentions fused"),
        (
            [("fp16", True), *[("", False)] * 3],
            "1 of 4 attentions fused (no fused kernel is expected for 3: heads too narrow, too wide or odd)",
        ),
        ([("fp16", False)], "1 of 1 attentions fused"),
    ],
)
def test_attentions_that_cannot_be_fused_are_told_apart(attentions: list[tuple[str, bool]], words: str) -> None:
    found = tuple(EngineProduct("softmax", "attn", "fp16", kind, expected=expected) for kind, expected in attentions)
    assert summary(replace(RECORD, attentions=found)) == words
