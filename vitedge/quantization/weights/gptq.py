# SPDX-License-Identifier: Apache-2.0
"""Weights one column after the other, each making up for the errors of those before it (GPTQ, arXiv:2210.17323).

GPTQ updates all weights to come by rows of a Cholesky factor of the inverse Hessian. The same numbers come from the
Hessian itself (arXiv:2307.13304, theorem 6): with ``H = U D Uᵀ``, ``U`` upper triangular with a diagonal of ones,
column ``k`` is ``ŵₖ = round(wₖ + Σ_{i<k} (wᵢ - ŵᵢ) Uᵢₖ)``. No inverse is taken, and with ``ηₖ`` for the error of the
k-th rounding alone, the error of the output is exactly ``tr((W - Ŵ) H (W - Ŵ)ᵀ) = Σₖ Dₖ ‖ηₖ‖²``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vitedge.quantization.plan import QuantizationParameters
from vitedge.quantization.weights.grids import GridSettings, per_element, widest_grid
from vitedge.quantization.weights.rounding import Contest, RoundedWeight, in_groups, round_to_nearest
from vitedge.quantization.weights.scales import fit_scales
from vitedge.quantization.weights.statistics import InputStatistics

COLUMNS = 64
"""Columns that are rounded between two products of whole matrices."""


def round_weight(weight: Tensor, settings: GridSettings, inputs: InputStatistics) -> RoundedWeight:
    """Rounds a weight.

    Every channel takes the better of two grids, and its scales are fitted to its integers at the end.

    Args:
        weight: ``(channels, elements)`` or ``(channels, channels in / groups, height, width)``, float32.
        settings: the kind of grid; without a search for scales only the grid that clips nothing is tried, and kept.
        inputs: of the layer; ``inputs.centred()`` where the mean of the error is taken off the bias afterwards.

    Returns:
        No channel has a larger output error than it has rounded to nearest.
    """
    nearest = round_to_nearest(weight, settings, inputs)
    contest, problem = Contest(weight, inputs, nearest), _Problem.of(weight, inputs)
    contest.enter(_rounding(weight, problem.round(nearest.grid), nearest.grid))
    if settings.search:
        # Errors that other weights make up for may want a wider grid than errors that stay.
        grid = widest_grid(weight.flatten(1), settings)
        contest.enter(_rounding(weight, problem.round(grid), grid))
        best = contest.best
        fitted = fit_scales(in_groups(best.integers, inputs), best.grid, problem.target, problem.hessian)
        contest.enter(_rounding(weight, best.integers, fitted))
    return contest.result()


def _rounding(weight: Tensor, integers: Tensor, grid: QuantizationParameters) -> RoundedWeight:
    return RoundedWeight(integers.reshape(weight.shape), grid, "gptq")


@dataclass(frozen=True)
class _Problem:
    """What is the same for every grid of a layer."""

    target: Tensor
    """``(groups, channels, elements)``, float64."""
    hessian: Tensor
    order: Tensor
    """In which elements are rounded: ``(groups, elements)``."""
    feedback: Tensor
    """The unit upper factor of the Hessian in that order, float32."""

    @classmethod
    def of(cls, weight: Tensor, inputs: InputStatistics) -> _Problem:
        hessian = inputs.damped()
        # The loudest inputs first: their errors can still be made up for by all others.
        order = torch.argsort(torch.diagonal(hessian, dim1=1, dim2=2), dim=1, descending=True, stable=True)
        factor = unit_upper_factor(_permute(_permute(hessian, order, 1), order, 2))
        return cls(inputs.wanted(in_groups(weight, inputs)), hessian, order, factor.to(torch.float32))

    def round(self, grid: QuantizationParameters) -> Tensor:
        """The integers on a grid, ``(groups, channels, elements)``."""
        matrix = self.target.to(torch.float32)
        levels = (part.reshape(matrix.shape) for part in per_element(grid, matrix.flatten(0, 1)))
        columns = [_permute(part.transpose(1, 2), self.order, 1) for part in (matrix, *levels)]
        integers = _round_columns(columns[0], columns[1], columns[2], self.feedback, grid.ends)
        return _permute(integers, torch.argsort(self.order, dim=1), 1).transpose(1, 2).to(grid.storage)


def unit_upper_factor(hessian: Tensor) -> Tensor:
    """``U`` of ``H = U D Uᵀ``: ``(groups, n, n)``, upper triangular, ones on the diagonal.

    Args:
        hessian: ``(groups, n, n)``, symmetric and positive definite.
    """
    # Cholesky starts at the first row; seen from the last one, its lower factor is the upper one wanted.
    upper: Tensor = torch.linalg.cholesky(hessian.flip(1, 2)).flip(1, 2)
    return upper / torch.diagonal(upper, dim1=1, dim2=2).unsqueeze(1)


def _round_columns(
    target: Tensor, scale: Tensor, zero_point: Tensor, feedback: Tensor, ends: tuple[int, int]
) -> Tensor:
    """The integers, element by element of the rows: tensors but the feedback are ``(groups, elements, channels)``."""
    reciprocal = 1.0 / scale
    errors, integers = torch.zeros_like(target), torch.empty_like(target)
    for start in range(0, target.shape[1], COLUMNS):
        stop = min(start + COLUMNS, target.shape[1])
        upper = feedback[:, :stop, start:stop].transpose(1, 2)
        corrected = torch.baddbmm(target[:, start:stop], upper[:, :, :start], errors[:, :start])
        for k in range(start, stop):
            row = k - start
            value = corrected[:, row] + (upper[:, row : row + 1, start:k] @ errors[:, start:k]).squeeze(1)
            integers[:, k] = torch.round(value * reciprocal[:, k]).add_(zero_point[:, k]).clamp_(*ends)
            errors[:, k] = target[:, k] - (integers[:, k] - zero_point[:, k]) * scale[:, k]
    return integers


def _permute(tensor: Tensor, order: Tensor, dim: int) -> Tensor:
    """A ``(groups, …, …)`` tensor with one of its axes in each group's own order ``(groups, elements)``."""
    shape = [tensor.shape[0], 1, 1]
    shape[dim] = -1
    permuted: Tensor = torch.gather(tensor, dim, order.reshape(shape).expand_as(tensor))
    return permuted
