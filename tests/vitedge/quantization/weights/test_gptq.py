# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from tests.vitedge.quantization.weights.layers import rows, statistics, weight
from tests.vitedge.quantization.weights.output_error import output_error
from vitedge.calibration.moments import InputStatistics, unit_upper_factor
from vitedge.quantization.parameters import QuantizationParameters, dequantize
from vitedge.quantization.weights import gptq, nearest
from vitedge.quantization.weights.parameters import WeightSettings, widest_parameters


def _by_inverse(target: torch.Tensor, hessian: torch.Tensor, qparams: QuantizationParameters) -> torch.Tensor:
    """The integers by the paper's own algorithm 1: updates by rows of the Cholesky factor of the inverse; float64."""
    upper = torch.linalg.cholesky(torch.linalg.inv(hessian), upper=True)
    left, integers = target.clone(), torch.empty_like(target)
    scale = qparams.scale.double()
    for k in range(target.shape[1]):
        integers[:, k] = torch.round(left[:, k] / scale).clamp(*qparams.ends)
        error = (left[:, k] - integers[:, k] * scale) / upper[k, k]
        left[:, k + 1 :] -= error.unsqueeze(1) * upper[k, k + 1 :]
    return integers


def test_feedback_of_the_hessian_is_that_of_its_inverse() -> None:
    values, hessian = weight(), statistics().damped()
    order = torch.argsort(torch.diagonal(hessian[0]), descending=True, stable=True)
    qparams = widest_parameters(values, WeightSettings("int4"))
    expected = _by_inverse(values.double()[:, order], hessian[0][order][:, order], qparams)[:, torch.argsort(order)]
    found = gptq.round_weight(values, WeightSettings("int4", search=False), statistics())
    kept = (found.integers == expected).all(dim=1)
    assert int(kept.sum()) >= 24 - found.fallbacks - 1  # float32 may round a tie of one channel to the other side
    assert found.fallbacks < 4


def test_the_factor_gives_the_hessian_back_and_predicts_the_error() -> None:
    hessian = statistics().damped()
    factor, parts = unit_upper_factor(hessian)
    inverse = torch.linalg.inv(factor)
    diagonal = inverse @ hessian @ inverse.transpose(1, 2)
    weights = torch.diagonal(diagonal, dim1=1, dim2=2)
    torch.testing.assert_close(weights, parts)
    torch.testing.assert_close(diagonal, torch.diag_embed(weights), rtol=0, atol=1e-9 * float(weights.max()))
    assert torch.equal(factor, factor.triu())
    assert torch.equal(torch.diagonal(factor[0]), torch.ones(64, dtype=torch.float64))
    change = weight().double()[None] - nearest.round_weight(weight(), WeightSettings("int4")).weight().double()
    own = change @ factor
    torch.testing.assert_close((change @ hessian * change).sum(), (weights * own.square()).sum(), rtol=1e-10, atol=0)


@pytest.mark.parametrize("elements", [63, 64, 65, 130])
def test_columns_between_products_are_all_rounded(elements: int) -> None:
    inputs = InputStatistics.of(rows(elements=elements))
    values = weight(elements=elements)
    found, near = (m.round_weight(values, WeightSettings("int4"), inputs) for m in (gptq, nearest))
    gain = [output_error(values, part.integers, part.qparams, inputs) for part in (found, near)]
    assert gain[0] > gain[1] + 3


def test_a_weight_makes_up_for_the_rounding_of_its_input() -> None:
    read = rows()
    qparams = QuantizationParameters("int8", read.abs().max() / 20, torch.zeros((), dtype=torch.int32))
    rounded = torch.round(read / qparams.scale) * qparams.scale
    residuals = (read - rounded) @ weight().T
    asked = InputStatistics.of(rounded, residuals)
    found = [gptq.round_weight(weight(), WeightSettings("int8"), part) for part in (asked, InputStatistics.of(rounded))]
    errors = [output_error(weight(), part.integers, part.qparams, asked) for part in found]
    assert errors[0] > errors[1] + 1
    direct = read @ weight().T - rounded @ dequantize(found[0].integers, found[0].qparams).T
    assert float(asked.errors(weight()[None], found[0].weight()[None]).sum()) == pytest.approx(
        float(direct.square().sum()), rel=1e-4
    )


def test_centred_statistics_leave_the_mean_to_the_bias() -> None:
    read = rows() + 2
    plain = InputStatistics.of(read)
    errors = []
    for inputs in (plain.centred(), plain):
        found = gptq.round_weight(weight(), WeightSettings("int4"), inputs)
        errors.append(output_error(weight(), found.integers, found.qparams, plain.centred()))
    assert errors[0] >= errors[1]
