# SPDX-License-Identifier: Apache-2.0
"""Second moments of a layer's input, by which changes of its weight are compared, in memory of constant size.

With ``x`` a row that the quantized layer reads, ``y`` the expected output, ``W`` the float weight and ``r = y - W x``
the error due to rounding the input alone, a rounded weight ``W + Δ`` has the squared error::

    Σ ‖r - Δ x‖² = Σ ‖r‖² - 2 tr(R Δᵀ) + tr(Δ H Δᵀ)        R = Σ r xᵀ,  H = Σ x xᵀ

so that ``Σ ‖r‖²``, ``R`` and ``H`` (half the Hessian of arXiv:2210.17323, section 3) give the error of any rounding,
and of any other change of the weight: quantization and pruning share them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

DAMPING = 0.01
"""Share of the mean diagonal that is added to the second moments, as in arXiv:2210.17323, section 3.3."""


@dataclass(eq=False)
class InputStatistics:
    """Sums over rows, float64. Without residuals the expected output is the float layer's on the same rows."""

    count: int
    """Number of rows."""
    total: Tensor
    """``Σ x``: ``(groups, elements)``."""
    moment: Tensor
    """``Σ x xᵀ``: ``(groups, elements, elements)``."""
    residual_total: Tensor
    """``Σ r``: ``(groups, channels)``."""
    cross: Tensor
    """``Σ r xᵀ``: ``(groups, channels, elements)``; of no channels as long as there are no residuals."""
    energy: Tensor
    """``Σ r²``: ``(groups, channels)``."""

    @classmethod
    def empty(cls, groups: int, elements: int, channels: int = 0) -> InputStatistics:
        """Returns statistics of no rows.

        Args:
            groups: of the layer; 1 for a Linear.
            elements: number of elements of a row, and of a row of the weight.
            channels: output channels of a group, where residuals will be added; 0 where not.
        """
        residual = (groups, channels)
        return cls(
            0,
            _zeros(groups, elements),
            _zeros(groups, elements, elements),
            _zeros(*residual),
            _zeros(*residual, elements),
            _zeros(*residual),
        )

    @classmethod
    def of(cls, rows: Tensor, residuals: Tensor | None = None) -> InputStatistics:
        """Returns statistics of these rows alone; the arguments are those of `add`."""
        channels = 0 if residuals is None else residuals.shape[2]
        statistics = cls.empty(rows.shape[0], rows.shape[2], channels)
        statistics.add(rows, residuals)
        return statistics

    def add(self, rows: Tensor, residuals: Tensor | None = None) -> None:
        """Adds rows.

        Args:
            rows: the layer's input as the quantized program has it, ``(groups, rows, elements)``.
            residuals: expected output less that of the float layer on these rows, ``(groups, rows, channels)``.

        Raises:
            ValueError: residuals are given in some calls and not in others.
        """
        if (residuals is not None) != (self.cross.shape[1] > 0):
            raise ValueError("residuals are given with all rows or with none")
        wide = rows.to(torch.float64)
        self.count += rows.shape[1]
        self.total += wide.sum(dim=1)
        self.moment += wide.transpose(1, 2) @ wide
        if residuals is not None:
            off = residuals.to(torch.float64)
            self.residual_total += off.sum(dim=1)
            self.cross += off.transpose(1, 2) @ wide
            self.energy += off.square().sum(dim=1)

    def centred(self) -> InputStatistics:
        """Returns the statistics of the same rows less their means, for errors whose mean the bias is corrected by."""
        n = max(self.count, 1)
        mean, off = self.total / n, self.residual_total / n
        return InputStatistics(
            self.count,
            torch.zeros_like(self.total),
            self.moment - n * mean.unsqueeze(2) * mean.unsqueeze(1),
            torch.zeros_like(self.residual_total),
            self.cross - n * off.unsqueeze(2) * mean.unsqueeze(1),
            self.energy - n * off.square(),
        )

    def importance(self) -> Tensor:
        """Returns the mean square of each element of a row, damped, ``(groups, elements)``."""
        return torch.diagonal(self.damped(), dim1=1, dim2=2) / max(self.count, 1)

    def damped(self) -> Tensor:
        """Returns ``H + λ I``, ``(groups, elements, elements)``, positive definite.

        λ is the mean of the diagonal times `DAMPING`; a group that reads nothing but zeros gets the identity.
        """
        mean = torch.diagonal(self.moment, dim1=1, dim2=2).mean(dim=1)
        added = torch.where(mean > 0, DAMPING * mean, torch.ones_like(mean))
        identity = torch.eye(self.moment.shape[1], dtype=self.moment.dtype)
        return self.moment + added.reshape(-1, 1, 1) * identity

    def ideal_weight(self, weight: Tensor) -> Tensor:
        """Returns the unrounded weight that minimizes the output error plus ``λ ‖Δ‖²``: ``W + R (H + λ I)⁻¹``.

        It compensates for the rounding of the input as far as a weight can (ridge regression, as in
        arXiv:2407.06794), and the error of a rounded weight is that of this one plus its distance from it in the
        metric of the damped moments.

        Args:
            weight: ``(groups, channels, elements)``.

        Returns:
            The same shape, float64.
        """
        wide = weight.to(torch.float64)
        if not self.cross.shape[1]:
            return wide
        factor = torch.linalg.cholesky(self.damped())
        return wide + torch.cholesky_solve(self.cross.transpose(1, 2), factor).transpose(1, 2)

    def errors(self, weight: Tensor, rounded: Tensor) -> Tensor:
        """Returns the squared error of each output channel, summed over the rows.

        Args:
            weight: the float weight, ``(groups, channels, elements)``.
            rounded: the weight in its place, the same shape.

        Returns:
            ``(groups, channels)``, float64.
        """
        change = rounded.to(torch.float64) - weight.to(torch.float64)
        errors = (change @ self.moment * change).sum(dim=2)
        if self.cross.shape[1]:
            errors = errors + self.energy - 2 * (self.cross * change).sum(dim=2)
        return errors.clamp_min(0)


def unit_upper_factor(hessian: Tensor) -> tuple[Tensor, Tensor]:
    """Returns ``U`` and the diagonal of ``D`` with ``H = U D Uᵀ``: ``U`` upper triangular, with ones on its diagonal.

    The error of a change ``Δ`` is then ``Σₖ Dₖ ‖Δ U‖²ₖ``, and ``1 / Dₖ`` is the first element of the inverse of ``H``
    without the rows and columns before ``k``: what GPTQ and SparseGPT take of it (arXiv:2307.13304, theorem 6).

    Args:
        hessian: ``(groups, n, n)``, symmetric and positive definite.

    Returns:
        ``(groups, n, n)`` and ``(groups, n)``.
    """
    # Cholesky starts at the first row; seen from the last one, its lower factor is the upper factor of the matrix.
    upper: Tensor = torch.linalg.cholesky(hessian.flip(1, 2)).flip(1, 2)
    diagonal = torch.diagonal(upper, dim1=1, dim2=2)
    return upper / diagonal.unsqueeze(1), diagonal.square()


def _zeros(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.float64)
