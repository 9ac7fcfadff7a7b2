# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.export import tiny
from tests.vitedge.quantization import small_models as small
from vitedge.errors import UnusableActivations
from vitedge.program.canonical import canonicalize
from vitedge.program.structure import find_structure
from vitedge.quantization.attention.parameters import attention_parameters
from vitedge.quantization.attention.policy import WHOLE
from vitedge.quantization.insert import insert
from vitedge.quantization.parameters import QuantizationParameters
from vitedge.quantization.plan import Plan

IMAGES = tiny.images(10)


def measured(
    images: Tensor = IMAGES, dtype: str = "uint8", ranges: str = "minmax", **options: bool
) -> dict[str, QuantizationParameters]:
    structure = find_structure(canonicalize(small.captured(small.Heads, **options)))
    found = attention_parameters(structure, {one.name: WHOLE for one in structure.attentions}, images, dtype, ranges)
    assert list(found) == [""]
    return found[""]


def ends(qparams: QuantizationParameters) -> tuple[float, float]:
    low, high = qparams.ends
    return float((low - qparams.zero_point) * qparams.scale), float((high - qparams.zero_point) * qparams.scale)


@torch.no_grad()
def test_ranges_are_those_of_what_the_products_read() -> None:
    module: Any = small.built(small.Heads, fused=True)
    query, key, value = module.qkv(IMAGES.mean(1)).reshape(10, 32, 3, 32).unbind(2)
    found = measured(fused=True)
    for values, operand in ((query / 4, "query"), (key, "key"), (value, "value")):
        low, high = ends(found[operand])
        step = float(found[operand].scale)
        assert low == pytest.approx(float(values.min()), abs=step)
        assert high == pytest.approx(float(values.max()), abs=step)


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_probabilities_reach_from_zero_to_one_whatever_the_images(dtype: str) -> None:
    qparams = measured(IMAGES[:1], dtype, fused=True)["probabilities"]
    assert int(qparams.zero_point) == 0
    assert ends(qparams)[1] == pytest.approx(1.0, rel=1e-6)


def test_an_attention_that_is_written_out_has_the_ranges_of_the_operator() -> None:
    fused, written = measured(fused=True), measured(fused=False)
    for operand, qparams in fused.items():
        assert float(qparams.scale) == pytest.approx(float(written[operand].scale), rel=1e-5)
        assert int(qparams.zero_point) == int(written[operand].zero_point)


def test_rounded_on_these_ranges_the_attention_is_near_the_float_one() -> None:
    expected = small.run(small.captured(small.Heads, fused=True), IMAGES)
    for dtype in ("uint8", "int8"):
        plan = Plan(attention={"": measured(dtype=dtype, ranges="auto", fused=True)})
        found = small.run(insert(canonicalize(small.captured(small.Heads, fused=True)), plan), IMAGES)
        assert 25 < tiny.centred_sqnr(found.numpy(), expected.numpy()) < 60


def test_what_is_not_finite_is_refused_with_the_name_of_the_operand() -> None:
    images = IMAGES.clone()
    images[9, 0, 0, 0] = float("nan")
    with pytest.raises(UnusableActivations, match=r"\(query\) holds NaN"):
        measured(images, fused=True)
