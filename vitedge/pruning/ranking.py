# SPDX-License-Identifier: Apache-2.0
"""Which units of a part go first, and what is lost when only some of them stay."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vitedge.pruning.draft import Batches
from vitedge.pruning.observe import Moments, as_rows, factored, watching_inputs
from vitedge.pruning.parts import Part, channels

DAMPING = 1e-4
"""Added to the diagonal of second moments, relative to its mean."""


@dataclass(frozen=True)
class Ranking:
    """The units of a part, from the one that goes last to the one that goes first."""

    part: Part
    order: tuple[int, ...]
    losses: Mapping[int, float]
    """Each number of units that may stay, to what is lost then; 0 for all. Comparable between parts."""

    def kept(self, count: int) -> tuple[int, ...]:
        """Returns the indices of the units that stay, ascending."""
        return tuple(sorted(self.order[:count]))


def by_activation(part: Part, weight: Tensor, moments: Moments) -> Ranking:
    """Ranks units by the part of the layer's output that the others cannot replace.

    Taking a set R of inputs away and refitting the others by least squares leaves the weighted squared error
    ``tr(W_R (P_RR)^-1 W_R^T)``, where P is the inverse of the inputs' second moments (Optimal Brain Surgeon, Hassibi
    and Stork, 1993, equation 5, for sets). Units go in steps, and P and W are those of what is left after each.

    Args:
        part: the units.
        weight: of the layer behind them, ``(outputs, channels)``.
        moments: of its inputs.
    """
    square, _, _ = moments.about(*moments.means)
    square = square / moments.images
    inverse = torch.cholesky_inverse(factored(square, float(square.diagonal().mean()) * DAMPING + 1e-30))
    weights = weight.detach().double().clone()
    left = list(range(part.units))
    gone: list[int] = []
    losses = {part.units: 0.0}
    loss = 0.0
    for size in reversed(part.sizes[:-1]):
        scores = _unit_scores(part, weights, inverse, len(left))
        worst = torch.argsort(scores, stable=True)[: len(left) - size].tolist()
        stay = [index for index in range(len(left)) if index not in set(worst)]
        removed, kept = channels(part, worst), channels(part, stay)
        block = inverse[removed][:, removed]
        solved = torch.linalg.solve(block, torch.cat([inverse[removed][:, kept], weights[:, removed].T], dim=1))
        ratio, pulled = solved[:, : len(kept)], solved[:, len(kept) :]
        loss += float((weights[:, removed].T * pulled).sum())
        weights = weights[:, kept] - weights[:, removed] @ ratio
        inverse = inverse[kept][:, kept] - inverse[kept][:, removed] @ ratio
        gone += [left[index] for index in worst]
        left = [left[index] for index in stay]
        losses[size] = loss
    return Ranking(part, (*left, *reversed(gone)), {size: losses[size] for size in part.sizes})


def _unit_scores(part: Part, weights: Tensor, inverse: Tensor, units: int) -> Tensor:
    """Returns what each single unit's removal would lose."""
    if part.width == 1:
        return weights.square().sum(0) / inverse.diagonal()
    scores = []
    for unit in range(units):
        own = channels(part, [unit])
        solved = torch.linalg.solve(inverse[own][:, own], weights[:, own].T)
        scores.append((weights[:, own].T * solved).sum())
    return torch.stack(scores)


def by_scores(part: Part, scores: Tensor, total: float) -> Ranking:
    """Ranks units by given scores.

    Args:
        part: the units.
        scores: one a unit; what is lost with several is the sum of theirs.
        total: by which scores of the part's group are divided, so that groups can be compared.
    """
    order = torch.argsort(scores, descending=True, stable=True).tolist()
    ordered = scores[order].double()
    losses = {size: float(ordered[size:].sum()) / max(total, 1e-30) for size in part.sizes}
    return Ranking(part, tuple(order), losses)


def magnitudes(module: nn.Module, part: Part) -> Tensor:
    """Returns the squared norm of the weights by which the layer behind a part uses each unit."""
    consumer = module.get_submodule(part.consumer).weight.detach().flatten(1)  # type: ignore[operator]
    used: Tensor = consumer.square().sum(0).view(part.units, part.width).sum(1)
    return used


def taylor(
    module: nn.Module, parts: Sequence[Part], batches: Batches, forward: Callable[[Tensor], Tensor]
) -> list[tuple[Part, Tensor]]:
    """Returns the score of each unit: the mean square of what its removal changes the outputs by, to first order.

    Per image that is the sum over rows and channels of input times gradient at the layer behind (Molchanov et al.,
    2019, equation 8). There are no labels, and a loss against the model's own output has no gradient: so it is the sum
    of the outputs with random signs, as in `row_weights`.
    """
    scores = {part.name: torch.zeros(part.units) for part in parts}
    generator = torch.Generator().manual_seed(0)
    for batch in batches:
        with torch.enable_grad(), watching_inputs(module, parts) as inputs:
            result = forward(batch.clone().requires_grad_())
            signs = torch.randint(0, 2, result.shape, generator=generator) * 2.0 - 1
            gradients = torch.autograd.grad((result * signs).sum(), [inputs[part.name] for part in parts])
        for part, gradient in zip(parts, gradients, strict=True):
            product = as_rows(gradient * inputs[part.name].detach(), len(batch), part).sum(1)
            scores[part.name] += product.view(len(batch), part.units, part.width).sum(2).square().sum(0)
    return [(part, scores[part.name]) for part in parts]


def normalized(rankings: Sequence[tuple[Part, Tensor]]) -> list[Ranking]:
    """Returns rankings by scores that are divided by the mean of the group of parts of the same shape."""
    groups: dict[object, list[Tensor]] = {}
    for part, scores in rankings:
        groups.setdefault(part.group, []).append(scores)
    return [by_scores(part, scores, float(torch.cat(groups[part.group]).mean())) for part, scores in rankings]
