# SPDX-License-Identifier: Apache-2.0
"""Rounds weights column by column, each compensating for the errors of those before it (GPTQ, arXiv:2210.17323).

GPTQ updates all weights to come by rows of a Cholesky factor of the inverse Hessian. The same numbers come from the
Hessian itself (arXiv:2307.13304, theorem 6): with ``H = U D Uᵀ``, ``U`` upper triangular with a diagonal of ones,
column ``k`` is ``ŵₖ = round(wₖ + Σ_{i<k} (wᵢ - ŵᵢ) Uᵢₖ)``. No inverse is taken, and with ``ηₖ`` for the error of the
k-th rounding alone, the error of the output is exactly ``tr((W - Ŵ) H (W - Ŵ)ᵀ) = Σₖ Dₖ ‖ηₖ‖²``. Weights that are zero
stay zero: a sparse weight keeps its pattern, and the others make up for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vitedge.calibration.moments import InputStatistics, unit_upper_factor
from vitedge.quantization.parameters import QuantizationParameters
from vitedge.quantization.weights.parameters import WeightSettings, per_element, widest_parameters
from vitedge.quantization.weights.rounding import BestRounding, RoundedWeight, in_groups, round_to_nearest
from vitedge.quantization.weights.scales import fit_scales

COLUMNS = 64
"""Columns that are rounded between two products of whole matrices."""


def round_weight(weight: Tensor, settings: WeightSettings, inputs: InputStatistics) -> RoundedWeight:
    """Rounds a weight.

    Every channel takes the better of two sets of scales, and its scales are fitted to its integers at the end.

    Args:
        weight: ``(channels, elements)`` or ``(channels, channels in / groups, height, width)``, float32.
        settings: of the quantization parameters; without a search only the scales that clip nothing are tried.
        inputs: statistics of the layer's input; ``inputs.centred()`` where the bias is corrected afterwards.

    Returns:
        The rounded weight. No channel has a larger output error than it has rounded to nearest.
    """
    nearest = round_to_nearest(weight, settings, inputs)
    best, problem = BestRounding(weight, inputs, nearest), _Problem.of(weight, inputs)
    best.consider(_rounding(weight, problem.round(nearest.qparams), nearest.qparams))
    if settings.search:
        # Errors that other weights compensate for may need a wider range than errors that stay.
        qparams = widest_parameters(weight.flatten(1), settings)
        best.consider(_rounding(weight, problem.round(qparams), qparams))
        found = best.rounding
        fitted = fit_scales(in_groups(found.integers, inputs), found.qparams, problem.target, problem.hessian)
        best.consider(_rounding(weight, found.integers, fitted))
    return best.result()


def _rounding(weight: Tensor, integers: Tensor, qparams: QuantizationParameters) -> RoundedWeight:
    return RoundedWeight(integers.reshape(weight.shape), qparams, "gptq")


@dataclass(frozen=True)
class _Problem:
    """One layer's weight with the factored Hessian of its input, for rounding with any quantization parameters."""

    target: Tensor
    """The weight to approximate, ``(groups, channels, elements)``, float64."""
    hessian: Tensor
    """Damped second moments, ``(groups, elements, elements)``, float64."""
    order: Tensor
    """Order in which elements are rounded, ``(groups, elements)``."""
    feedback: Tensor
    """Unit upper factor of the Hessian in that order, ``(groups, elements, elements)``, float32."""
    zeros: Tensor | None
    """Which elements of the weight are zero, ``(groups, channels, elements)``; None where none is."""

    @classmethod
    def of(cls, weight: Tensor, inputs: InputStatistics) -> _Problem:
        hessian = inputs.damped()
        # The largest inputs first: all other elements can still compensate for their errors.
        order = torch.argsort(torch.diagonal(hessian, dim1=1, dim2=2), dim=1, descending=True, stable=True)
        factor, _ = unit_upper_factor(_permute(_permute(hessian, order, 1), order, 2))
        zeros = in_groups(weight, inputs) == 0
        return cls(
            inputs.ideal_weight(in_groups(weight, inputs)),
            hessian,
            order,
            factor.to(torch.float32),
            zeros if zeros.any() else None,
        )

    def round(self, qparams: QuantizationParameters) -> Tensor:
        """Returns the integers for these parameters, ``(groups, channels, elements)``."""
        matrix = self.target.to(torch.float32)
        levels = (part.reshape(matrix.shape) for part in per_element(qparams, matrix.flatten(0, 1)))
        columns = [_permute(part.transpose(1, 2), self.order, 1) for part in (matrix, *levels)]
        fixed = None if self.zeros is None else _permute(self.zeros.transpose(1, 2), self.order, 1)
        integers = _round_columns(columns, fixed, self.feedback, qparams.ends)
        return _permute(integers, torch.argsort(self.order, dim=1), 1).transpose(1, 2).to(qparams.storage)


def _round_columns(columns: list[Tensor], zeros: Tensor | None, feedback: Tensor, ends: tuple[int, int]) -> Tensor:
    """Rounds element after element of the rows.

    Args:
        columns: the weight, and the scale and the zero point of each element, ``(groups, elements, channels)``.
        zeros: the elements that stay zero, of that shape, or None.
        feedback: the unit upper factor, ``(groups, elements, elements)``.
        ends: the smallest and the largest integer.
    """
    target, scale, zero_point = columns
    reciprocal = 1.0 / scale
    errors, integers = torch.zeros_like(target), torch.empty_like(target)
    for start in range(0, target.shape[1], COLUMNS):
        stop = min(start + COLUMNS, target.shape[1])
        upper = feedback[:, :stop, start:stop].transpose(1, 2)
        corrected = torch.baddbmm(target[:, start:stop], upper[:, :, :start], errors[:, :start])
        for k in range(start, stop):
            row = k - start
            value = corrected[:, row] + (upper[:, row : row + 1, start:k] @ errors[:, start:k]).squeeze(1)
            if zeros is not None:
                value = value.masked_fill(zeros[:, k], 0)
            integers[:, k] = torch.round(value * reciprocal[:, k]).add_(zero_point[:, k]).clamp_(*ends)
            errors[:, k] = target[:, k] - (integers[:, k] - zero_point[:, k]) * scale[:, k]
    return integers


def _permute(tensor: Tensor, order: Tensor, dim: int) -> Tensor:
    """Permutes one axis of a ``(groups, …, …)`` tensor by each group's own order ``(groups, elements)``."""
    shape = [tensor.shape[0], 1, 1]
    shape[dim] = -1
    permuted: Tensor = torch.gather(tensor, dim, order.reshape(shape).expand_as(tensor))
    return permuted
