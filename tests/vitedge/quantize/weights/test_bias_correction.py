# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from tests.vitedge.quantize.weights.layers import rows, weight
from vitedge.errors import UserError
from vitedge.quantize.plan import ENDS, quantize
from vitedge.quantize.weights import nearest
from vitedge.quantize.weights.bias_correction import bias_grid, correct_bias, mean_error, widened_scales
from vitedge.quantize.weights.grids import GridSettings
from vitedge.quantize.weights.statistics import InputStatistics


def test_the_corrected_bias_leaves_no_mean_error_and_is_the_best() -> None:
    bias = torch.linspace(-1, 1, 24)
    found = nearest.round_weight(weight(), GridSettings("int4"))
    wanted, got = (rows()[0] @ part.T + bias for part in (weight(), found.weight()))
    corrected = correct_bias(bias, wanted.mean(dim=0), got.mean(dim=0))
    off = wanted - (got - bias + corrected)
    torch.testing.assert_close(off.mean(dim=0), torch.zeros(24), rtol=0, atol=1e-5)
    assert bool((off.square().sum(dim=0) < (wanted - got).square().sum(dim=0)).all())


@pytest.mark.parametrize("with_residuals", [False, True])
def test_the_mean_error_follows_from_the_means_of_the_inputs(with_residuals: bool) -> None:
    found = nearest.round_weight(weight(), GridSettings("int4"))
    read = rows()
    rounded = torch.round(read * 2) / 2 if with_residuals else read
    residuals = (read - rounded) @ weight().T if with_residuals else None
    statistics = InputStatistics.of(rounded, residuals)
    direct = (read @ weight().T - rounded @ found.weight().T)[0].mean(dim=0)
    torch.testing.assert_close(mean_error(weight(), found, statistics), direct, rtol=1e-4, atol=1e-5)


def test_a_bias_is_rounded_to_within_half_a_step_of_the_sum() -> None:
    bias, scales = torch.linspace(-3, 3, 24), torch.linspace(0.001, 0.01, 24)
    grid = bias_grid("head", bias, torch.tensor(0.02), scales)
    torch.testing.assert_close(grid.scale, 0.02 * scales)
    off = quantize(bias, grid) * grid.scale - bias
    assert bool((off.abs() <= 0.51 * grid.scale).all())


def test_an_overflowing_bias_names_its_layer_and_a_wider_scale_takes_it() -> None:
    bias, step = torch.tensor([0.5, -300.0, 0.0]), torch.tensor(0.01)
    scales = torch.tensor([0.01, 1e-8, 1e-12])
    with pytest.raises(UserError, match=r"-300 of channel 1 of blocks\.0\.fc1 overflows int32"):
        bias_grid("blocks.0.fc1", bias, step, scales)
    widened = widened_scales(bias, step, scales)
    assert torch.equal(widened[[0, 2]], scales[[0, 2]])
    integers = quantize(bias.double(), bias_grid("blocks.0.fc1", bias, step, widened))
    assert int(integers[1]) == pytest.approx(-ENDS["int32"][1] / 2, rel=1e-5)
