# SPDX-License-Identifier: Apache-2.0
"""The refit of a layer by least squares, with a pull towards its old weights that held-out images choose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from vitedge.pruning.observe import Moments, factored

RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 10.0)
"""Pulls that are tried, relative to the mean second moment of the inputs; the last leaves the weights as they are."""
DEFAULT_RIDGE = 1e-2
"""The pull where there are too few images to hold some out."""
HELD_OUT = 4
"""One batch in so many is held out while the pull is chosen."""
_LARGEST_SPECTRUM = 1024
"""Inputs of a layer up to which the rank is counted; it takes longer than the refit."""


@dataclass(frozen=True)
class Refit:
    """The weights and bias of a refitted layer."""

    weight: Tensor
    """``(outputs, inputs)``, float64."""
    bias: Tensor
    """``(outputs,)``, float64."""
    ridge: float
    error_before: float
    """Weighted squared error of the layer's output, relative to the power of the target, with the old weights."""
    error_after: float
    rank: int
    """Directions of the inputs that the images show."""

    def tensors(self) -> dict[str, Tensor]:
        """Returns the same as a journal keeps it."""
        numbers = (self.ridge, self.error_before, self.error_after, float(self.rank))
        return {"weight": self.weight, "bias": self.bias, "numbers": torch.tensor(numbers, dtype=torch.float64)}

    @staticmethod
    def of(tensors: Mapping[str, Tensor]) -> Refit:
        """Returns what `tensors` returned."""
        ridge, before, after, rank = tensors["numbers"].tolist()
        return Refit(tensors["weight"], tensors["bias"], ridge, before, after, int(rank))


class Halves:
    """Moments of most batches, and of those that are held out."""

    def __init__(self, inputs: int, outputs: int) -> None:
        self.fitted, self.held = Moments.of(inputs, outputs), Moments.of(inputs, outputs)
        self._batches = 0

    def add(self, inputs: Tensor, row_weights: Tensor, targets: Tensor) -> None:
        """Adds a batch; see `Moments.add`."""
        self._batches += 1
        half = self.held if self._batches % HELD_OUT == 0 else self.fitted
        half.add(inputs, row_weights, targets)


def refit(weight: Tensor, halves: Halves) -> Refit:
    """Fits weights and bias to targets by least squares with a pull towards the old weights.

    With A the centred inputs, Y the centred targets and W0 the old weights, it minimizes
    ``|A W^T - Y|^2 + r |W - W0|^2``: ``W^T = W0^T + (A^T A + r I)^-1 (A^T Y - A^T A W0^T)`` (ridge regression). So the
    old weights stay where the images show nothing.

    Args:
        weight: the old weights of the inputs that are left, ``(outputs, inputs)``.
        halves: moments of these inputs, with targets.
    """
    old = weight.detach().double()
    ridge = DEFAULT_RIDGE
    if halves.held.images:
        ridge = min(RIDGES, key=lambda each: _held_error(old, halves, each))
    moments = halves.fitted + halves.held
    mean, target = moments.means
    square, cross, power = moments.about(mean, target)
    new = _solved(old, square, cross, ridge)
    errors = [_error(each, square, cross, power) / max(power, 1e-30) for each in (old, new)]
    return Refit(new, target - new @ mean, ridge, errors[0], errors[1], _rank(square, moments.rows))


def _held_error(old: Tensor, halves: Halves, ridge: float) -> float:
    """Returns the error on the held-out batches of what is fitted to the others."""
    means = halves.fitted.means
    square, cross, _ = halves.fitted.about(*means)
    return _error(_solved(old, square, cross, ridge), *halves.held.about(*means))


def _solved(old: Tensor, square: Tensor, cross: Tensor, ridge: float) -> Tensor:
    pull = ridge * float(square.diagonal().mean()) + 1e-30
    return old + torch.cholesky_solve(cross - square @ old.T, factored(square, pull)).T


def _error(weight: Tensor, square: Tensor, cross: Tensor, power: float) -> float:
    return max(0.0, power - 2 * float((weight.T * cross).sum()) + float((weight.T * (square @ weight.T)).sum()))


def _rank(square: Tensor, rows: int) -> int:
    if len(square) > _LARGEST_SPECTRUM:
        return min(rows, len(square))
    return int((torch.linalg.eigvalsh(square) > 1e-9 * float(square.diagonal().mean())).sum())
