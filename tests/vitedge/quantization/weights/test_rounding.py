# SPDX-License-Identifier: Apache-2.0
"""Every method of `rounding`: `nearest`, `gptq` and `adaround`."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

from tests.vitedge.quantization.weights.layers import rows, statistics, weight
from tests.vitedge.quantization.weights.output_error import output_error
from vitedge.calibration.moments import InputStatistics
from vitedge.calibration.rows import Window, convolution_rows
from vitedge.quantization.parameters import ENDS, dequantize, fake_quantize
from vitedge.quantization.weights import adaround, gptq, nearest
from vitedge.quantization.weights.parameters import WeightSettings
from vitedge.quantization.weights.rounding import RoundedWeight, in_groups

METHODS = [nearest, gptq, adaround]
LEARNED = [gptq, adaround]
KINDS = [
    WeightSettings("int8"),
    WeightSettings("int4"),
    WeightSettings("int4", 32),
    WeightSettings("int4", 16, symmetric=False),
]


def _errors(values: torch.Tensor, rounding: RoundedWeight, inputs: InputStatistics) -> torch.Tensor:
    return inputs.errors(in_groups(values, inputs), in_groups(rounding.weight(), inputs)).flatten()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("settings", KINDS)
def test_integers_are_on_the_grid(method: ModuleType, settings: WeightSettings) -> None:
    found = method.round_weight(weight(), settings, statistics())
    low, high = ENDS[settings.dtype]
    assert found.integers.dtype is torch.int8
    assert found.integers.shape == (24, 64)
    assert low <= int(found.integers.min()) <= int(found.integers.max()) <= high
    values = dequantize(found.integers, found.qparams)
    assert torch.equal(values, found.weight())
    torch.testing.assert_close(fake_quantize(values, found.qparams), values, rtol=0, atol=0)
    assert found.qparams.zero_point.any() != settings.symmetric


@pytest.mark.parametrize("method", LEARNED)
@pytest.mark.parametrize("settings", KINDS)
def test_no_channel_is_worse_than_nearest_and_the_layer_is_better(method: ModuleType, settings: WeightSettings) -> None:
    inputs = statistics()
    near, found = nearest.round_weight(weight(), settings, inputs), method.round_weight(weight(), settings, inputs)
    assert bool((_errors(weight(), found, inputs) <= _errors(weight(), near, inputs)).all())
    gain = output_error(weight(), found.integers, found.qparams, inputs) - output_error(
        weight(), near.integers, near.qparams, inputs
    )
    assert gain > 3


@pytest.mark.parametrize("method", LEARNED)
def test_it_holds_on_rows_that_were_not_seen(method: ModuleType) -> None:
    # The same layer reads them: the same mixing of sources, other tokens.
    read = rows(4096)
    seen, fresh = InputStatistics.of(read[:, :3072]), InputStatistics.of(read[:, 3072:])
    near, found = (m.round_weight(weight(), KINDS[2], seen) for m in (nearest, method))
    assert output_error(weight(), found.integers, found.qparams, fresh) > 3 + output_error(
        weight(), near.integers, near.qparams, fresh
    )


@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_drawn_at_random(method: ModuleType) -> None:
    first, second = (method.round_weight(weight(), KINDS[2], statistics()) for _ in range(2))
    assert torch.equal(first.integers, second.integers)
    assert torch.equal(first.qparams.scale, second.qparams.scale)


@pytest.mark.parametrize("method", LEARNED)
def test_weights_on_a_grid_stay_what_they_are_and_it_is_said(method: ModuleType) -> None:
    near = nearest.round_weight(weight(), WeightSettings("int4", search=False), statistics())
    values = near.weight()
    found = method.round_weight(values, WeightSettings("int4", search=False), statistics())
    torch.testing.assert_close(found.weight(), values, rtol=1e-6, atol=0)
    assert found.fallbacks == 24


@pytest.mark.parametrize("method", METHODS)
def test_dead_inputs_and_a_dead_layer_are_rounded_like_others(method: ModuleType) -> None:
    read = rows()
    read[:, :, 10:20] = 0
    found = method.round_weight(weight(), KINDS[2], InputStatistics.of(read))
    assert bool(torch.isfinite(found.weight()).all())
    # They may be read later on, so they stay near what they were.
    assert float((found.weight() - weight())[:, 10:20].abs().max()) < 0.1
    dead = method.round_weight(weight(), KINDS[2], InputStatistics.of(torch.zeros_like(read)))
    assert float((dead.weight() - weight()).abs().max()) < 0.03


@pytest.mark.parametrize("method", METHODS)
def test_a_single_channel_of_few_elements(method: ModuleType) -> None:
    values = weight(1, 8)
    found = method.round_weight(values, WeightSettings("int4"), InputStatistics.of(rows(elements=8)))
    assert found.integers.shape == (1, 8)
    assert found.qparams.scale.shape == (1,)


@pytest.mark.parametrize("method", METHODS)
def test_a_huge_weight_spoils_its_own_block_only(method: ModuleType) -> None:
    values = weight()
    values[0, 40] = 1e4
    found = method.round_weight(values, WeightSettings("int4", 32), statistics())
    assert float(found.weight()[0, 40]) == pytest.approx(1e4, rel=0.2)
    without = method.round_weight(weight(), WeightSettings("int4", 32), statistics())
    torch.testing.assert_close(found.weight()[1:], without.weight()[1:], rtol=1e-4, atol=0)
    assert bool(torch.isfinite(found.weight()).all())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("groups", [1, 3, 6])
def test_convolutions_are_rounded_by_what_each_group_reads(method: ModuleType, groups: int) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(12, 6 // groups, 3, 3, generator=generator)
    images = torch.randn(4, 6, 10, 10, generator=generator).cumsum(dim=3)
    inputs = InputStatistics.of(convolution_rows(images, Window((3, 3), padding=(1, 1), groups=groups)))
    found = method.round_weight(values, WeightSettings("int4"), inputs)
    assert found.integers.shape == values.shape
    near = nearest.round_weight(values, WeightSettings("int4"), inputs)
    outputs = [
        torch.nn.functional.conv2d(images, v, padding=1, groups=groups) for v in (values, found.weight(), near.weight())
    ]
    found_error, near_error = (float((outputs[0] - other).square().sum()) for other in outputs[1:])
    assert found_error <= near_error * (1 + 1e-5)
    measured = output_error(values, found.integers, found.qparams, inputs)
    expected = 10 * torch.log10(outputs[0].square().sum() / found_error)
    assert measured == pytest.approx(float(expected), abs=1e-3)


def test_output_error_of_nothing_lost_and_of_no_signal() -> None:
    near = nearest.round_weight(weight(), WeightSettings("int4"), None)
    assert output_error(near.weight(), near.integers, near.qparams, statistics()) == float("inf")
    silent = InputStatistics.of(torch.zeros(1, 4, 64))
    assert output_error(near.weight(), near.integers, near.qparams, silent) != output_error(
        near.weight(), near.integers, near.qparams, silent
    )
