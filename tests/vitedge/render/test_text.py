# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import pytest

from vitedge.render.text import FALLBACK, folded, printable, printable_json, shortened


@pytest.mark.parametrize(
    "char", ["\x00", "\x1b", "\n", "\x7f", "\x9b", "\u202e", "\u2066", "\u200b", "\ud800", "\U000e0041"]
)
def test_what_a_terminal_acts_on_is_shown_as_an_escape(char: str) -> None:
    assert printable(f"a{char}é猫").isprintable()
    document = json.dumps([char, "é猫"], indent=1, ensure_ascii=False)
    assert json.loads(printable_json(document)) == [char, "é猫"]
    assert all(line.isprintable() for line in printable_json(document).split("\n"))


def test_a_long_name_keeps_its_ends() -> None:
    name = "a" * 125 + "/" + "b" * 125
    assert len(shortened(name)) == 120
    assert shortened(name).startswith("aaa")
    assert shortened(name).endswith("bbb")
    assert shortened("model.onnx") == "model.onnx"


def test_a_name_is_broken_after_its_separators() -> None:
    assert folded("swin-large-384-fp16/model.onnx", 20) == ["swin-large-384-fp16/", "model.onnx"]
    assert folded("two words here", 9) == ["two words", "here"]
    assert folded("x" * 25, 10) == ["x" * 10, "x" * 10, "x" * 5]
    assert folded("猫" * 6, 4) == ["猫猫"] * 3


def test_what_an_encoding_lacks_is_replaced() -> None:
    assert "a … — µ é".encode("ascii", FALLBACK) == b"a ... - u \\xe9"
