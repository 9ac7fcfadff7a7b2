# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import Tensor

from tests.export import tiny
from tests.vitedge.quantization import small_models as small
from vitedge.program.editor import aten
from vitedge.program.execution import Execution, rounded
from vitedge.program.qdq import DEQUANTIZE, QUANTIZE


def test_it_computes_what_the_module_computes_as_often_as_asked() -> None:
    run = Execution(small.captured(small.Mixture).exported)
    for count in (1, 3, 2):
        images = tiny.images(count)
        with torch.no_grad():
            expected = small.built(small.Mixture)(images)
        (found,) = run(images)
        assert torch.allclose(found, expected, atol=1e-6)
        assert not found.requires_grad


def test_constants_that_are_in_no_state_dict_are_found() -> None:
    module, program = tiny.program("swin", "dynamic")  # whose masks are constants
    assert program.exported.constants
    (found,) = Execution(program.exported)(tiny.images(2))
    with torch.no_grad():
        assert torch.allclose(found, module(tiny.images(2)), atol=1e-5)


def test_a_watch_sees_a_value_and_may_replace_it() -> None:
    program = small.captured(small.Mixture)
    (head,) = (node for node in program.exported.graph.nodes if node.target is aten.mean.dim)
    seen: list[Tensor] = []
    watched = Execution(program.exported, {head.name: seen.append})(tiny.images(2))[0]
    assert torch.equal(watched, small.run(program, tiny.images(2)))
    assert seen[0].shape == (2, 48)
    (replaced,) = Execution(program.exported, {head.name: torch.zeros_like})(tiny.images(2))
    assert torch.equal(replaced, small.built(small.Mixture).head.bias.expand(2, 5))


def test_a_value_is_let_go_when_it_was_read_for_the_last_time() -> None:
    program = small.captured(small.Mixture)
    nodes = {node.target: node.name for node in program.exported.graph.nodes}
    kept: list[weakref.ref[Tensor]] = []
    alive: list[bool] = []

    def look(_value: Tensor) -> None:
        gc.collect()
        alive.append(kept[0]() is not None)

    watches = {nodes[aten.conv2d.default]: lambda value: kept.append(weakref.ref(value)), nodes[aten.mean.dim]: look}
    Execution(program.exported, watches)(tiny.images(2))
    assert alive == [False]


@pytest.mark.parametrize(("dtype", "zero_point"), [(torch.uint8, 117), (torch.int8, 0)])
def test_rounding_is_bit_for_bit_what_the_two_operators_compute(dtype: torch.dtype, zero_point: int) -> None:
    low, high = torch.iinfo(dtype).min, torch.iinfo(dtype).max
    halves = torch.arange(-600, 601) * 0.5  # ties, and what is clamped
    for scale in (0.0173, 1.0, 2.0**-7):
        value = torch.cat([halves * scale, torch.randn(10_000, generator=torch.Generator().manual_seed(0))])
        qparams = (scale, zero_point, low, high, dtype)
        expected = DEQUANTIZE(QUANTIZE(value, *qparams), *qparams)
        assert torch.equal(rounded(value, *qparams[:4]), expected)
