# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from itertools import combinations, product

import pytest
import torch
from torch import Tensor

from tests.vitedge.quantization.weights.layers import rows, weight
from vitedge.calibration.moments import InputStatistics
from vitedge.program.sparsity import is_two_of_four
from vitedge.pruning.recipe import Selection
from vitedge.pruning.zeroing import make_sparse

ALL = tuple(Selection)


def error(dense: Tensor, sparse: Tensor, inputs: InputStatistics) -> float:
    """With the damping, which is part of what the update minimizes."""
    change = (dense - sparse).double()
    return float((change @ inputs.damped()[0] * change).sum())


def optimum(row: Tensor, kept: tuple[int, ...], hessian: Tensor) -> tuple[float, Tensor]:
    """The least error with these elements, and the row that has it, by the normal equations."""
    index, found = torch.tensor(kept), torch.zeros_like(row)
    found[index] = torch.linalg.solve(hessian[index][:, index], (hessian @ row)[index])
    change = row - found
    return float(change @ hessian @ change), found


@pytest.mark.parametrize("seed", range(6))
def test_four_elements_get_the_optimum_of_all_six_ways(seed: int) -> None:
    inputs = InputStatistics.of(rows(elements=4, count=50, seed=seed))
    dense = weight(1, 4, seed=seed).double()
    ways = [optimum(dense[0], kept, inputs.damped()[0]) for kept in combinations(range(4), 2)]
    least, best = min(ways, key=lambda way: way[0])
    found = make_sparse(dense, "2:4", Selection.SPARSEGPT, inputs)
    assert error(dense, found, inputs) == pytest.approx(least, rel=1e-9)
    torch.testing.assert_close(found[0], best)


@pytest.mark.parametrize("pattern", ["2:4", 0.5])
def test_kept_elements_are_the_optimum_for_the_zeros_that_were_chosen(pattern: str | float) -> None:
    inputs = InputStatistics.of(rows(elements=24))
    dense = weight(5, 24).double()
    found = make_sparse(dense, pattern, Selection.SPARSEGPT, inputs)
    for row, sparse in zip(dense, found, strict=True):
        kept = tuple(int(one) for one in sparse.nonzero().flatten())
        least, best = optimum(row, kept, inputs.damped()[0])
        assert error(row[None], sparse[None], inputs) == pytest.approx(least, rel=1e-4)
        torch.testing.assert_close(sparse, best, rtol=1e-2, atol=1e-3)


def test_few_of_all_patterns_are_better_than_the_one_that_was_chosen() -> None:
    better = 0
    for seed in range(10):
        inputs = InputStatistics.of(rows(elements=8, count=60, seed=seed))
        dense = weight(1, 8, seed=seed).double()
        found = error(dense, make_sparse(dense, "2:4", Selection.SPARSEGPT, inputs), inputs)
        pairs = tuple(combinations(range(4), 2))
        errors = [
            optimum(dense[0], (*first, *(4 + one for one in second)), inputs.damped()[0])[0]
            for first, second in product(pairs, pairs)
        ]
        assert found >= min(errors) * (1 - 1e-9)
        better += sum(one < found * (1 - 1e-6) for one in errors)
    assert better <= 10  # of 360: about one of 36 is better


@pytest.mark.parametrize("selection", ALL)
@pytest.mark.parametrize("elements", [8, 132, 260])
def test_the_pattern_is_everywhere(selection: Selection, elements: int) -> None:
    inputs = InputStatistics.of(rows(elements=elements, count=300))
    dense = weight(6, elements)
    found = make_sparse(dense, "2:4", selection, inputs)
    assert found.dtype == dense.dtype
    assert is_two_of_four(found.numpy())
    assert int((found == 0).sum()) == found.numel() // 2
    if selection is not Selection.SPARSEGPT:
        assert torch.equal(found[found != 0], dense[found != 0])


@pytest.mark.parametrize("selection", ALL)
def test_a_fraction_of_zeros_is_that_fraction(selection: Selection) -> None:
    inputs = InputStatistics.of(rows(elements=200))
    found = make_sparse(weight(10, 200), 0.3, selection, inputs)
    assert float((found == 0).double().mean()) == pytest.approx(0.3, abs=0.002)
    if selection is not Selection.SPARSEGPT:
        assert set((found == 0).sum(dim=1).tolist()) == {60}
    dense = weight(10, 200)
    assert torch.equal(make_sparse(dense, 0.0, selection, inputs), dense)


@pytest.mark.parametrize("pattern", ["2:4", 0.5])
def test_the_update_is_better_than_what_leaves_the_others(pattern: str | float) -> None:
    inputs, dense = InputStatistics.of(rows(count=2000)), weight()
    errors = {selection: error(dense, make_sparse(dense, pattern, selection, inputs), inputs) for selection in ALL}
    assert errors[Selection.SPARSEGPT] < 0.5 * errors[Selection.WANDA] < 0.5 * errors[Selection.MAGNITUDE]


@pytest.mark.parametrize("selection", ALL)
def test_a_weight_that_has_the_pattern_stays_bit_for_bit(selection: Selection) -> None:
    inputs = InputStatistics.of(rows())
    dense = make_sparse(weight(), "2:4", Selection.MAGNITUDE, inputs).double()
    dense[:, :4] = 0
    assert torch.equal(make_sparse(dense, "2:4", selection, inputs), dense)


@pytest.mark.parametrize("selection", ALL)
def test_inputs_that_are_always_zero_do_no_harm(selection: Selection) -> None:
    values = rows(elements=16)
    values[:, :, 5:9] = 0
    for inputs in (InputStatistics.of(values), InputStatistics.of(torch.zeros_like(values))):
        found = make_sparse(weight(4, 16), "2:4", selection, inputs)
        assert torch.isfinite(found).all()
        assert is_two_of_four(found.numpy())
