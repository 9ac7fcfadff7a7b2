# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest

from tests.export.tiny import BLOCKS, model, spec
from vitedge.export.formats import CORE_ML, PROCESSOR, TENSORRT
from vitedge.program.canonical import canonicalize
from vitedge.program.capture import capture
from vitedge.program.structure import Attention, find_structure
from vitedge.quantization.attention.policy import SCORES, WHOLE, Decision, decide

FORMS = {"onnxruntime": PROCESSOR, "coreml": CORE_ML, "tensorrt": TENSORRT}


@cache
def found(name: str) -> tuple[Attention, ...]:
    return find_structure(canonicalize(capture(model(name), spec(name), BLOCKS[name]))).attentions


def attention(**changes: object) -> Attention:
    """One with heads of 16 channels over 17 tokens."""
    return replace(found("vit")[0], **changes)  # type: ignore[arg-type]


def outcome(one: Attention, target: str = "tensorrt", attended: float = 5.0, asked: str = "auto") -> tuple[bool, str]:
    """Returns whether the attention is quantized whole, and the reason."""
    decision = decide([one], {one.name: attended}, FORMS[target], asked)[one.name]
    assert decision.operands in ((), WHOLE)
    return bool(decision.operands), decision.reason


def test_tensorrt_takes_an_attention_whose_softmax_is_sharp_enough() -> None:
    assert outcome(attention(), attended=31.7) == (
        True,
        "TensorRT fuses it, and its rows spread over 32 tokens only",
    )
    quantize, reason = outcome(attention(), attended=31.8)
    assert not quantize
    assert reason == "its rows spread over 32 tokens, and 127 levels suffice for 31"


def test_what_was_not_measured_is_taken_for_uniform() -> None:
    (spread,) = decide([attention(tokens=197)], {}, TENSORRT).values()
    assert spread == Decision((), "its rows spread over 197 tokens, and 127 levels suffice for 31")
    assert next(iter(decide([attention(tokens=16)], {}, TENSORRT).values())).operands == WHOLE


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"tokens": 513}, "513 tokens, and TensorRT fuses int8 attention up to 512"),
        ({"dim": 48}, "heads of 48 channels, and TensorRT fuses int8 attention with 16, 32, 64"),
        ({"masked": True}, "something is added to its scores, with which TensorRT does not fuse int8 attention"),
    ],
)
def test_tensorrt_limits_hold_even_where_all_were_asked_for(changes: dict[str, object], reason: str) -> None:
    assert outcome(attention(**changes)) == (False, reason)
    assert outcome(attention(**changes), asked="all") == (False, reason)
    assert outcome(attention(tokens=512, dim=64), asked="all", attended=500.0)[0]


def test_swin_is_left_in_float_on_tensorrt() -> None:
    swin = found("swin")
    assert len(swin) == 3
    assert not any(decision.operands for decision in decide(swin, {}, TENSORRT, "all").values())


@pytest.mark.parametrize("target", ["onnxruntime", "coreml"])
def test_elsewhere_attention_is_quantized_only_when_asked_for(target: str) -> None:
    assert outcome(attention(), target) == (False, FORMS[target].float_attention)
    assert outcome(attention(masked=True, dim=12), target, asked="all") == (True, "all attentions were asked for")


def test_none_is_none() -> None:
    assert outcome(attention(), asked="none") == (False, "no attention was asked for")


def test_names_go_before_rules_and_patterns_only_take_back() -> None:
    first, second = found("vit")
    overrides = {first.name: "int8", second.name: "float"}
    decided = decide([first, second], {}, PROCESSOR, "none", overrides)
    said = "asked for by name"
    assert decided == {first.name: Decision(WHOLE, said), second.name: Decision((), said)}
    decided = decide([first, second], {}, TENSORRT, "all", {"blocks.0.*": "float", "blocks.1.*": "int8"})
    assert decided[first.name] == Decision((), "float asked for by blocks.0.*")
    assert decided[second.name] == Decision(WHOLE, "all attentions were asked for")
    by_layers = decide([first], {}, PROCESSOR, overrides={"blocks.*": "int8"})
    assert by_layers[first.name] == Decision((), PROCESSOR.float_attention)  # its layers are meant


def test_of_a_long_attention_a_processor_gets_the_scores_alone() -> None:
    long = attention(tokens=513)
    decision = decide([long], {}, PROCESSOR)[long.name]
    assert decision == Decision(SCORES, "the scores of 513 tokens take long")
    assert decision.precision == "int8 scores"
    assert outcome(long, "onnxruntime", asked="all")[0]
    assert not outcome(long, "onnxruntime", asked="none")[0]
    assert not outcome(long, "coreml")[0]
    assert not outcome(attention(tokens=512), "onnxruntime")[0]
