# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from tests.vitedge.quantization.weights.layers import rows, weight
from vitedge.calibration.moments import InputStatistics


def _problem() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows, residuals of a rounded input, and a weight, in float64."""
    generator = torch.Generator().manual_seed(5)
    read = rows(groups=2).double()
    residuals = 0.1 * torch.randn(2, read.shape[1], 12, generator=generator, dtype=torch.float64) + 0.2
    residuals += 0.02 * read[:, :, :12]
    return read, residuals, weight().reshape(2, 12, 64).double()


def test_sums_over_batches_are_those_of_all_rows_at_once() -> None:
    read, residuals, float_weight = _problem()
    streamed = InputStatistics.empty(2, 64, 12)
    for start in range(0, read.shape[1], 100):
        streamed.add(read[:, start : start + 100], residuals[:, start : start + 100])
    whole = InputStatistics.of(read, residuals)
    assert streamed.count == whole.count == 512
    torch.testing.assert_close(streamed.moment, whole.moment, rtol=1e-12, atol=1e-9)
    rounded = float_weight.round(decimals=2)
    torch.testing.assert_close(streamed.errors(float_weight, rounded), whole.errors(float_weight, rounded))


@pytest.mark.parametrize("with_residuals", [False, True])
def test_errors_are_those_of_the_rows(with_residuals: bool) -> None:
    read, residuals, float_weight = _problem()
    rounded = float_weight.round(decimals=2)
    statistics = InputStatistics.of(read, residuals if with_residuals else None)
    wanted = read @ float_weight.transpose(1, 2) + (residuals if with_residuals else 0)
    off = wanted - read @ rounded.transpose(1, 2)
    torch.testing.assert_close(statistics.errors(float_weight, rounded), off.square().sum(dim=1), rtol=1e-9, atol=0)
    centred = (off - off.mean(dim=1, keepdim=True)).square().sum(dim=1)
    torch.testing.assert_close(statistics.centred().errors(float_weight, rounded), centred, rtol=1e-8, atol=0)


def test_the_error_is_that_of_the_wanted_weight_plus_the_distance_from_it() -> None:
    read, residuals, float_weight = _problem()
    statistics = InputStatistics.of(read, residuals)
    wanted, damping = statistics.ideal_weight(float_weight), statistics.damped()

    def damped_error(candidate: torch.Tensor) -> torch.Tensor:
        change = candidate - float_weight
        extra = (change @ (damping - statistics.moment) * change).sum(dim=2)
        return statistics.errors(float_weight, candidate) + extra

    rounded = float_weight.round(decimals=2)
    off = rounded - wanted
    distance = (off @ damping * off).sum(dim=2)
    torch.testing.assert_close(damped_error(rounded), damped_error(wanted) + distance, rtol=1e-9, atol=0)
    assert bool((damped_error(wanted) < damped_error(float_weight)).all())


def test_without_residuals_the_weight_itself_is_wanted() -> None:
    assert torch.equal(InputStatistics.of(rows()).ideal_weight(weight()[None]), weight()[None].double())


def test_a_group_that_reads_zeros_is_still_positive_definite() -> None:
    read = rows(groups=2)
    read[1] = 0
    damped = InputStatistics.of(read).damped()
    assert torch.equal(damped[1], torch.eye(64, dtype=torch.float64))
    assert int(torch.linalg.cholesky_ex(damped).info.sum()) == 0


def test_residuals_are_given_always_or_never() -> None:
    statistics = InputStatistics.empty(1, 64)
    with pytest.raises(ValueError, match="all rows or with none"):
        statistics.add(rows(), torch.zeros(1, 512, 4))
