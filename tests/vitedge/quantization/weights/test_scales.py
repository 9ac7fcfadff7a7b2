# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from tests.vitedge.quantization.weights.layers import statistics, weight
from vitedge.quantization.plan import dequantize, quantize
from vitedge.quantization.weights.grids import GridSettings, widest_grid
from vitedge.quantization.weights.scales import fit_scales


@pytest.mark.parametrize("settings", [GridSettings("int4"), GridSettings("int4", 16), GridSettings("int4", 32, False)])
@pytest.mark.parametrize("elements", [64, 56])
def test_no_scale_near_the_fitted_one_has_a_smaller_error(settings: GridSettings, elements: int) -> None:
    values, hessian = weight(elements=elements), statistics(elements=elements).damped()
    grid = widest_grid(values, settings)
    integers = quantize(values, grid)
    fitted = fit_scales(integers[None], grid, values[None].double(), hessian)

    def error(scale: torch.Tensor) -> torch.Tensor:
        step, zero = scale.double().reshape(24, -1), grid.zero_point.reshape(24, -1)
        size = settings.block or elements
        step, zero = (part.repeat_interleave(size, dim=1)[:, :elements] for part in (step, zero))
        off = (integers - zero) * step - values.double()
        return (off @ hessian[0] * off).sum(dim=1)

    assert bool((error(fitted.scale) < error(grid.scale)).all())
    generator = torch.Generator().manual_seed(0)
    inside = ((fitted.scale / grid.scale - 1).abs() > 1e-9).reshape(24, -1).all(dim=1)
    assert int(inside.sum()) > 12  # the others have a block that its bounds held back
    for _ in range(5):
        shaken = fitted.scale * (1 + 0.002 * torch.randn(fitted.scale.shape, generator=generator))
        assert bool((error(fitted.scale) <= error(shaken) * (1 + 1e-6))[inside].all())


def test_a_channel_of_zeros_keeps_its_scale() -> None:
    values = weight()
    values[2] = 0
    grid = widest_grid(values, GridSettings("int4", 32))
    fitted = fit_scales(quantize(values, grid)[None], grid, values[None].double(), statistics().damped())
    assert torch.equal(fitted.scale[2], grid.scale[2])
    assert torch.equal(dequantize(quantize(values, grid), fitted)[2], torch.zeros(64))
