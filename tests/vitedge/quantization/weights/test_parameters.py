# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from tests.vitedge.quantization.weights.layers import statistics, weight
from vitedge.quantization.parameters import ENDS, dequantize, fake_quantize, quantize
from vitedge.quantization.weights.parameters import WeightSettings, choose_parameters, fit_block, widest_parameters

KINDS = [
    WeightSettings("int8"),
    WeightSettings("int4"),
    WeightSettings("int4", 32),
    WeightSettings("int4", 16, symmetric=False),
    WeightSettings("int8", symmetric=False),
]


@pytest.mark.parametrize(("elements", "block"), [(64, 32), (144, 16), (96, 32), (27, None), (8, None)])
def test_blocks_are_whole_and_as_large_as_wanted(elements: int, block: int | None) -> None:
    assert fit_block(elements, 32) == block


@pytest.mark.parametrize("settings", KINDS)
def test_the_widest_range_clips_nothing(settings: WeightSettings) -> None:
    values = weight() + (0 if settings.symmetric else 0.03)
    qparams = widest_parameters(values, settings)
    step = qparams.scale.reshape(24, -1).repeat_interleave(qparams.block or 64, dim=1)
    assert bool(((fake_quantize(values, qparams) - values).abs() <= 0.501 * step).all() if settings.symmetric else True)
    # The zero point of asymmetric integers is rounded too, so that its ends may be off by half a step more.
    assert bool(((fake_quantize(values, qparams) - values).abs() <= 1.001 * step).all())


@pytest.mark.parametrize("settings", KINDS)
@pytest.mark.parametrize("weighted", [False, True])
def test_the_search_never_raises_the_error_it_looks_at(settings: WeightSettings, weighted: bool) -> None:
    importance = statistics().importance() if weighted else torch.ones(1, 64)

    def error(search: bool) -> torch.Tensor:
        qparams = choose_parameters(
            weight(), WeightSettings(settings.dtype, settings.block, settings.symmetric, search), importance
        )
        off = (fake_quantize(weight(), qparams) - weight()).square() * importance
        return off.reshape(24, -1, qparams.block or 64).sum(dim=2)

    found, widest = error(search=True), error(search=False)
    assert bool((found <= widest * (1 + 1e-5)).all())
    assert float(found.sum()) < float(widest.sum())


@pytest.mark.parametrize("settings", KINDS)
def test_integers_stay_in_range_whatever_the_weights(settings: WeightSettings) -> None:
    values = weight()
    values[0, 0], values[1], values[2], values[3] = 1e6, 0, 1e-30, values[3].abs()
    qparams = choose_parameters(values, settings)
    integers = quantize(values, qparams)
    low, high = ENDS[settings.dtype]
    assert low <= int(integers.min())
    assert int(integers.max()) <= high
    assert bool(torch.isfinite(dequantize(integers, qparams)).all())
    assert torch.equal(dequantize(integers, qparams)[1], torch.zeros(64))
    torch.testing.assert_close(dequantize(integers, qparams)[0, 0], torch.tensor(1e6), rtol=1e-6, atol=0)


@pytest.mark.parametrize("settings", [WeightSettings("int8"), WeightSettings("int4"), WeightSettings("int4", 32)])
def test_weights_that_integers_represent_exactly_stay_what_they_are(settings: WeightSettings) -> None:
    low, high = ENDS[settings.dtype]
    integers = torch.randint(low, high + 1, (8, 64), generator=torch.Generator().manual_seed(0)).to(torch.int8)
    integers[:, ::32] = low
    values = integers * torch.linspace(0.001, 3, 8).reshape(8, 1)
    qparams = choose_parameters(values, settings)
    assert torch.equal(quantize(values, qparams), integers)
    torch.testing.assert_close(fake_quantize(values, qparams), values, rtol=1e-6, atol=0)


def test_the_last_block_may_be_short() -> None:
    values = weight(elements=40)
    qparams = choose_parameters(values, WeightSettings("int4", 32))
    assert qparams.scale.shape == (24, 2)
    alone = choose_parameters(values[:, 32:], WeightSettings("int4"))
    torch.testing.assert_close(qparams.scale[:, 1], alone.scale)


def test_a_scale_fits_the_weights_that_large_inputs_multiply() -> None:
    values, importance = weight(1, 32), torch.full((1, 32), 1e-6)
    values[0, 5], importance[0, 5] = 0.0123, 1.0
    plain, weighted = (fake_quantize(values, choose_parameters(values, KINDS[1], part)) for part in (None, importance))
    assert abs(float(weighted[0, 5] - 0.0123)) < 0.1 * abs(float(plain[0, 5] - 0.0123))


def test_no_scale_is_below_the_smallest_that_is_allowed() -> None:
    values = weight()
    values[1] = values[1] / values[1].abs().max() * 1e-4
    values[2] = 0.0
    smallest = 2.0**-14
    qparams = choose_parameters(values, WeightSettings("int8", smallest_scale=smallest))
    assert float(qparams.scale.min()) == smallest
    assert qparams.scale[1] == qparams.scale[2] == smallest
    error = (fake_quantize(values, qparams) - values).abs().amax(1)
    assert float(error[1]) <= smallest / 2
    assert torch.equal(qparams.scale[3:], choose_parameters(values, WeightSettings("int8")).scale[3:])
