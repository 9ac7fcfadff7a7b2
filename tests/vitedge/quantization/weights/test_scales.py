# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from tests.vitedge.quantization.weights.layers import statistics, weight
from vitedge.quantization.parameters import dequantize, quantize
from vitedge.quantization.weights.parameters import WeightSettings, widest_parameters
from vitedge.quantization.weights.scales import fit_scales


@pytest.mark.parametrize(
    "settings", [WeightSettings("int4"), WeightSettings("int4", 16), WeightSettings("int4", 32, False)]
)
@pytest.mark.parametrize("elements", [64, 56])
def test_no_scale_near_the_fitted_one_has_a_smaller_error(settings: WeightSettings, elements: int) -> None:
    values, hessian = weight(elements=elements), statistics(elements=elements).damped()
    qparams = widest_parameters(values, settings)
    integers = quantize(values, qparams)
    fitted = fit_scales(integers[None], qparams, values[None].double(), hessian)

    def error(scale: torch.Tensor) -> torch.Tensor:
        step, zero = scale.double().reshape(24, -1), qparams.zero_point.reshape(24, -1)
        size = settings.block or elements
        step, zero = (part.repeat_interleave(size, dim=1)[:, :elements] for part in (step, zero))
        off = (integers - zero) * step - values.double()
        return (off @ hessian[0] * off).sum(dim=1)

    assert bool((error(fitted.scale) < error(qparams.scale)).all())
    generator = torch.Generator().manual_seed(0)
    inside = ((fitted.scale / qparams.scale - 1).abs() > 1e-9).reshape(24, -1).all(dim=1)
    assert int(inside.sum()) > 12  # the others have a block that its bounds held back
    for _ in range(5):
        shaken = fitted.scale * (1 + 0.002 * torch.randn(fitted.scale.shape, generator=generator))
        assert bool((error(fitted.scale) <= error(shaken) * (1 + 1e-6))[inside].all())


def test_a_channel_of_zeros_keeps_its_scale() -> None:
    values = weight()
    values[2] = 0
    qparams = widest_parameters(values, WeightSettings("int4", 32))
    fitted = fit_scales(quantize(values, qparams)[None], qparams, values[None].double(), statistics().damped())
    assert torch.equal(fitted.scale[2], qparams.scale[2])
    assert torch.equal(dequantize(quantize(values, qparams), fitted)[2], torch.zeros(64))
