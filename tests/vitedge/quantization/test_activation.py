# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vitedge.calibration.observations import Stats
from vitedge.calibration.ranges import LEVELS
from vitedge.errors import UnusableActivations
from vitedge.quantization.activation import activation_parameters
from vitedge.quantization.parameters import ENDS, fake_quantize
from vitedge.recipe import RangeMethod


def heavy(worst: float = 30.0) -> Tensor:
    """Rows of 16 channels, most values small, some far out, and the farthest in channel 3."""
    values = torch.randn(2000, 16, generator=torch.Generator().manual_seed(4)) ** 3
    values[17, 3] = worst
    return values


def seen(values: Tensor) -> Stats:
    stats = Stats()
    stats.update(values)
    return stats


def error(values: Tensor, dtype: str, ranges: str) -> float:
    qparams, _ = activation_parameters("fc2", seen(values), dtype, ranges)
    return float((fake_quantize(values, qparams) - values).square().mean())


def test_the_levels_that_ranges_are_fitted_to_are_integers_of_the_grid() -> None:
    for dtype, levels in LEVELS.items():
        low, high = ENDS[dtype]
        assert high == levels.highest
        assert levels.lowest == (-high if levels.symmetric else low)


@pytest.mark.parametrize("dtype", LEVELS)
def test_minmax_holds_everything(dtype: str) -> None:
    values = heavy()
    qparams, choice = activation_parameters("fc2", seen(values), dtype, "minmax")
    assert qparams.dtype == dtype
    assert qparams.scale.dtype is torch.float32
    assert qparams.zero_point.dtype is torch.int32
    assert choice.estimator == "min-max"
    assert float((fake_quantize(values, qparams) - values).abs().max()) <= float(qparams.scale) * 1.01
    assert (int(qparams.zero_point) == 0) is dtype.startswith("int")


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_the_range_of_least_error_is_taken_where_none_is_named(dtype: str) -> None:
    values = heavy()
    errors = {ranges: error(values, dtype, ranges) for ranges in RangeMethod}
    assert errors["auto"] <= min(errors.values()) * 1.02
    assert errors["auto"] < 0.98 * errors["minmax"]
    for ranges in [method for method in RangeMethod if method is not RangeMethod.AUTO]:
        named = activation_parameters("fc2", seen(values), dtype, ranges)[1].estimator
        assert named.replace("-", "").partition(" ")[0] == ranges


def test_a_range_fits_the_channels_that_are_worth_most() -> None:
    values = heavy()
    importance = torch.ones(16)
    importance[3] = 1e6
    errors = []
    for worth in (None, importance):
        qparams, _ = activation_parameters("fc2", seen(values), "uint8", "auto", worth)
        errors.append(float((fake_quantize(values, qparams) - values)[:, 3].square().mean()))
    assert errors[1] < 0.8 * errors[0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused_with_the_name_of_the_layer(bad: float) -> None:
    values = heavy(bad)
    with pytest.raises(UnusableActivations, match=r"^The input of blocks\.3\.mlp\.fc2 holds NaN or infinity"):
        activation_parameters("blocks.3.mlp.fc2", seen(values), "uint8")


def test_an_activation_of_zeros_has_a_grid() -> None:
    qparams, _ = activation_parameters("head", seen(torch.zeros(10, 4)), "uint8")
    assert float(qparams.scale) > 0
    assert torch.equal(fake_quantize(torch.zeros(3), qparams), torch.zeros(3))
