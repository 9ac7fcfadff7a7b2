# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from vitedge.latency.sampling import Rule
from vitedge.recipe import QuantizationRecipe, ResolvedRecipe
from vitedge.verbs.duration import roughly, seconds_expected

FP32 = ResolvedRecipe(("onnx",))
INT8 = ResolvedRecipe(("onnx",), precision="int8", quantization=QuantizationRecipe(images="photos"))  # type: ignore[arg-type]


def test_time_grows_with_the_model_the_images_and_the_candidates() -> None:
    rule = Rule()
    one = seconds_expected([FP32], 0.01, 0, rule)
    assert seconds_expected([FP32, FP32], 0.01, 0, rule) == pytest.approx(2 * one)
    assert seconds_expected([INT8], 0.01, 0, rule) > seconds_expected([FP32], 0.01, 0, rule) + 128 * 0.01
    assert seconds_expected([INT8], 0.1, 0, rule) > 5 * seconds_expected([INT8], 0.01, 0, rule)
    assert seconds_expected([FP32], 0.01, 1000, rule) == pytest.approx(one + 2 * 1000 * 0.01)


def test_a_measurement_lasts_no_longer_than_its_rule() -> None:
    long, short = (seconds_expected([FP32], 1.0, 0, Rule(seconds=seconds)) for seconds in (10.0, 2.0))
    assert long - short == pytest.approx(8.0)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.0, "10 s"), (17, "20 s"), (70, "60 s"), (130, "2 min"), (400, "5 min"), (1700, "30 min"),
     (3000, "an hour"), (7300, "2 h")],
)  # fmt: skip
def test_nothing_is_more_exact_than_it_is_known(seconds: float, said: str) -> None:
    assert roughly(seconds) == said
