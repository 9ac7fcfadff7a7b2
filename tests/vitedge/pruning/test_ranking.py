# SPDX-License-Identifier: Apache-2.0
"""Tests of `ranking`, `observe`, `repair` and `allocation`."""

from __future__ import annotations

import itertools

import pytest
import torch

from vitedge.errors import BadRecipe
from vitedge.pruning.allocation import Budget, allocate
from vitedge.pruning.observe import Moments, factored
from vitedge.pruning.parts import Kind, Part
from vitedge.pruning.ranking import Ranking, by_activation
from vitedge.pruning.repair import Halves, refit


def test_the_loss_of_a_ranking_is_that_of_the_best_refit() -> None:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(1, 500, 6, generator=generator) @ torch.randn(6, 6, generator=generator)
    weight = torch.randn(3, 6, generator=generator)
    moments = Moments.of(6)
    moments.add(inputs, torch.ones(500))
    part = Part("block", Kind.MLP, 6, 1, 3, 1)
    ranking = by_activation(part, weight, moments)
    centred = (inputs[0] - inputs[0].mean(0)).double()
    for size in (1, 3, 5):
        left = centred[:, list(ranking.kept(size))]
        target = centred @ weight.double().T
        best = target - left @ torch.linalg.lstsq(left, target).solution
        assert ranking.losses[size] == pytest.approx(float(best.square().sum()), rel=5e-2)
    alone = [
        float((target - centred[:, kept] @ torch.linalg.lstsq(centred[:, kept], target).solution).square().sum())
        for kept in ([unit for unit in range(6) if unit != gone] for gone in range(6))
    ]
    assert ranking.order[-1] == alone.index(min(alone))


def test_the_refit_is_the_least_squares_solution_and_stays_where_nothing_is_seen() -> None:
    generator = torch.Generator().manual_seed(2)
    weight, true = torch.randn(3, 5, generator=generator), torch.randn(3, 5, generator=generator)
    halves = Halves(5, 3)
    for _ in range(8):
        inputs = torch.randn(4, 50, 5, generator=generator) * torch.tensor([1.0, 1, 1, 1, 0])
        halves.add(inputs, torch.ones(50), inputs @ true.T + 7)
    found = refit(weight, halves)
    assert torch.allclose(found.weight[:, :4], true[:, :4].double(), atol=1e-4)
    assert torch.allclose(found.weight[:, 4], weight[:, 4].double())
    assert torch.allclose(found.bias, torch.full((3,), 7.0, dtype=torch.float64), atol=1e-4)
    assert (found.rank, found.error_after < 1e-8 < found.error_before) == (4, True)


def test_a_budget_is_shared_out_as_an_exhaustive_search_does() -> None:
    rankings = []
    prices = {}
    for number, scale in enumerate((1.0, 3.0, 10.0)):
        part = Part(f"b{number}", Kind.MLP, 6, 1, 4, 1)
        losses = {size: scale * (6 - size) ** 2 for size in part.sizes}
        rankings.append(Ranking(part, tuple(range(6)), losses))
        prices[part.name] = 1.0 + number
    budget = 20.0
    found = allocate(rankings, prices, Budget("mlp", 1.0, budget))
    choices = itertools.product(*(ranking.part.sizes for ranking in rankings))
    affordable = [
        choice for choice in choices if sum(s * p for s, p in zip(choice, prices.values(), strict=True)) <= budget
    ]
    best = min(sum(r.losses[s] for r, s in zip(rankings, choice, strict=True)) for choice in affordable)
    assert sum(ranking.losses[found[ranking.part.name]] for ranking in rankings) <= 1.2 * best
    with pytest.raises(BadRecipe, match=r"--mlp 0.1 cannot be met: .* 0.3 is left"):
        allocate(rankings, prices, Budget("mlp", 0.1, 20.0))


def test_moments_that_rounding_made_indefinite_are_factored_with_a_larger_pull() -> None:
    generator = torch.Generator().manual_seed(0)
    few = torch.randn(4, 24, generator=generator, dtype=torch.float64)
    few[:, 0] *= 300
    square = few.T @ few - 1e-4 * torch.eye(24, dtype=torch.float64)
    factor = factored(square, 1e-6)
    assert torch.allclose(factor @ factor.T, square, atol=1e-2)
    definite = few.T @ few + torch.eye(24, dtype=torch.float64)
    assert torch.equal(factored(definite, 0.5), torch.linalg.cholesky(definite + 0.5 * torch.eye(24)))
    moments = Moments.of(24)
    moments.add(few.float()[None], torch.ones(4))
    halves = Halves(24, 3)
    for _ in range(4):
        halves.add(few.float()[None], torch.ones(4), torch.randn(1, 4, 3, generator=generator))
    weight = torch.randn(3, 24, generator=generator)
    assert bool(refit(weight, halves).weight.isfinite().all())
    assert len(set(by_activation(Part("block", Kind.MLP, 24, 1, 3, 8), weight, moments).order)) == 24
