# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from tests.vitedge.quantization.weights.layers import statistics, weight
from vitedge.quantization.plan import ENDS, dequantize, fake_quantize, quantize
from vitedge.quantization.weights.grids import GridSettings, choose_grid, fit_block, widest_grid

KINDS = [
    GridSettings("int8"),
    GridSettings("int4"),
    GridSettings("int4", 32),
    GridSettings("int4", 16, symmetric=False),
    GridSettings("int8", symmetric=False),
]


@pytest.mark.parametrize(("elements", "block"), [(64, 32), (144, 16), (96, 32), (27, None), (8, None)])
def test_blocks_are_whole_and_as_large_as_wanted(elements: int, block: int | None) -> None:
    assert fit_block(elements, 32) == block


@pytest.mark.parametrize("settings", KINDS)
def test_the_widest_grid_clips_nothing(settings: GridSettings) -> None:
    values = weight() + (0 if settings.symmetric else 0.03)
    grid = widest_grid(values, settings)
    step = grid.scale.reshape(24, -1).repeat_interleave(grid.block or 64, dim=1)
    assert bool(((fake_quantize(values, grid) - values).abs() <= 0.501 * step).all() if settings.symmetric else True)
    # The zero point of an asymmetric grid is rounded too, so that its ends may be off by half a step more.
    assert bool(((fake_quantize(values, grid) - values).abs() <= 1.001 * step).all())


@pytest.mark.parametrize("settings", KINDS)
@pytest.mark.parametrize("weighted", [False, True])
def test_the_search_never_raises_the_error_it_looks_at(settings: GridSettings, weighted: bool) -> None:
    importance = statistics().importance() if weighted else torch.ones(1, 64)

    def error(search: bool) -> torch.Tensor:
        grid = choose_grid(
            weight(), GridSettings(settings.dtype, settings.block, settings.symmetric, search), importance
        )
        off = (fake_quantize(weight(), grid) - weight()).square() * importance
        return off.reshape(24, -1, grid.block or 64).sum(dim=2)

    found, widest = error(search=True), error(search=False)
    assert bool((found <= widest * (1 + 1e-5)).all())
    assert float(found.sum()) < float(widest.sum())


@pytest.mark.parametrize("settings", KINDS)
def test_integers_stay_in_range_whatever_the_weights(settings: GridSettings) -> None:
    values = weight()
    values[0, 0], values[1], values[2], values[3] = 1e6, 0, 1e-30, values[3].abs()
    grid = choose_grid(values, settings)
    integers = quantize(values, grid)
    low, high = ENDS[settings.dtype]
    assert low <= int(integers.min())
    assert int(integers.max()) <= high
    assert bool(torch.isfinite(dequantize(integers, grid)).all())
    assert torch.equal(dequantize(integers, grid)[1], torch.zeros(64))
    torch.testing.assert_close(dequantize(integers, grid)[0, 0], torch.tensor(1e6), rtol=1e-6, atol=0)


@pytest.mark.parametrize("settings", [GridSettings("int8"), GridSettings("int4"), GridSettings("int4", 32)])
def test_weights_on_a_grid_stay_what_they_are(settings: GridSettings) -> None:
    low, high = ENDS[settings.dtype]
    integers = torch.randint(low, high + 1, (8, 64), generator=torch.Generator().manual_seed(0)).to(torch.int8)
    integers[:, ::32] = low
    values = integers * torch.linspace(0.001, 3, 8).reshape(8, 1)
    grid = choose_grid(values, settings)
    assert torch.equal(quantize(values, grid), integers)
    torch.testing.assert_close(fake_quantize(values, grid), values, rtol=1e-6, atol=0)


def test_the_last_block_may_be_short() -> None:
    values = weight(elements=40)
    grid = choose_grid(values, GridSettings("int4", 32))
    assert grid.scale.shape == (24, 2)
    alone = choose_grid(values[:, 32:], GridSettings("int4"))
    torch.testing.assert_close(grid.scale[:, 1], alone.scale)


def test_a_scale_fits_the_weights_that_loud_inputs_multiply() -> None:
    values, importance = weight(1, 32), torch.full((1, 32), 1e-6)
    values[0, 5], importance[0, 5] = 0.0123, 1.0
    plain, weighted = (fake_quantize(values, choose_grid(values, KINDS[1], part)) for part in (None, importance))
    assert abs(float(weighted[0, 5] - 0.0123)) < 0.1 * abs(float(plain[0, 5] - 0.0123))
