# SPDX-License-Identifier: Apache-2.0
"""Makes one weight sparse: which elements become zero, and what the others become then.

With ``H`` the second moments of the layer's input, a change ``Δ`` of the weight changes the output by ``tr(Δ H Δᵀ)``.
SparseGPT (arXiv:2301.00774, section 3) takes the columns from left to right and lets all that come later make up for
what became zero before. As in `vitedge.quantization.weights.gptq` no inverse is needed: with ``H = U D Uᵀ``, ``U``
upper triangular, the error that removing element ``k`` leaves is ``w² / [H⁻¹]ₖₖ = Dₖ w²``, for columns from ``k`` on.

For 2:4 the same is done in blocks: with ``H = Ũ P Ũᵀ``, ``P`` of blocks of four, each of the six ways to zero two of
four elements costs ``v Q vᵀ``, and the two others of the group make up for it first. At last all kept elements get the
values of the least-squares optimum for the zeros that were chosen, by conjugate gradients.
"""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor

from vitedge.calibration.moments import InputStatistics, unit_upper_factor
from vitedge.program.sparsity import GROUP, ZEROS
from vitedge.pruning.recipe import TWO_OF_FOUR, Selection

COLUMNS = 128
"""Columns among which a fraction of zeros is selected at once, and between two products of whole matrices."""
ITERATIONS = 24
"""Largest number of steps of conjugate gradients: within a few percent of the optimum in layers of 3072 inputs."""
TOLERANCE = 1e-4
"""Norm of the gradient, relative to that without the kept elements, at which they end."""
Pattern = str | float
"""``2:4``, or the fraction of zeros."""
_WAYS = tuple(combinations(range(GROUP), ZEROS))
"""The elements of a group that become zero."""


def make_sparse(
    weight: Tensor, pattern: Pattern, selection: Selection, inputs: InputStatistics, iterations: int = ITERATIONS
) -> Tensor:
    """Returns a sparse weight in place of another.

    Magnitude and Wanda zero the same share of every row. SparseGPT zeros the same share of each 128 columns, of all
    rows together (section 3.3 there). With 2:4 it is two of each four in all three.

    Args:
        weight: ``(channels, elements)``; the elements a multiple of four for 2:4.
        pattern: what is asked for.
        selection: the method.
        inputs: statistics of the layer's input, of one group; ``inputs.centred()`` where the bias is corrected.
        iterations: of conjugate gradients, at most.

    Returns:
        The same shape and dtype. A weight that has the pattern is returned as it is.
    """
    wide = weight.to(torch.float64)
    if selection is Selection.SPARSEGPT:
        hessian = inputs.damped()[0]
        sparse = _two_of_four(wide, hessian) if pattern == TWO_OF_FOUR else _fraction(wide, hessian, float(pattern))
        return _refit(wide, sparse, hessian, iterations).to(weight.dtype)
    scores = wide.abs()
    if selection is Selection.WANDA:
        scores = scores * torch.diagonal(inputs.moment[0]).sqrt()
    return torch.where(_largest(scores, pattern), weight, torch.zeros_like(weight))


def _largest(scores: Tensor, pattern: Pattern) -> Tensor:
    """Returns which elements stay: the largest two of each four, or of each row those above the fraction."""
    groups = scores.reshape(-1, GROUP) if pattern == TWO_OF_FOUR else scores
    zeros = ZEROS if pattern == TWO_OF_FOUR else round(float(pattern) * scores.shape[1])
    order = torch.argsort(groups, dim=1, stable=True)
    return torch.ones_like(groups, dtype=torch.bool).scatter_(1, order[:, :zeros], value=False).reshape(scores.shape)


def _two_of_four(weight: Tensor, hessian: Tensor) -> Tensor:
    """Returns the weight with two zeros in each four, every group given the errors of those before it."""
    factor, blocks = _block_factor(hessian)
    costs, changes = _ways(blocks)
    errors, sparse = torch.zeros_like(weight), torch.empty_like(weight)
    rows, zeroed = torch.arange(weight.shape[0]), _ways_mask()
    for start in range(0, weight.shape[1], COLUMNS):
        stop = min(start + COLUMNS, weight.shape[1])
        corrected = weight[:, start:stop] + errors[:, :start] @ factor[:start, start:stop]
        for first in range(start, stop, GROUP):
            here = slice(first, first + GROUP)
            group = corrected[:, first - start : first - start + GROUP]
            group = group + errors[:, start:first] @ factor[start:first, here]
            way = (group @ costs[first // GROUP] * group).sum(dim=2).argmin(dim=0)
            found = group - (group @ changes[first // GROUP])[way, rows]
            sparse[:, here] = found.masked_fill(zeroed[way], 0)
            errors[:, here] = weight[:, here] - sparse[:, here]
    return sparse


def _block_factor(hessian: Tensor) -> tuple[Tensor, Tensor]:
    """Returns ``Ũ``, and the blocks of ``P`` as ``(groups, 4, 4)``, of ``H = Ũ P Ũᵀ`` with identities in ``Ũ``."""
    factors, diagonals = unit_upper_factor(hessian.unsqueeze(0))
    factor, count = factors[0], hessian.shape[0] // GROUP
    groups = torch.arange(count)
    inner = factor.reshape(count, GROUP, count, GROUP)[groups, :, groups]
    blocks = inner * diagonals.reshape(count, 1, GROUP) @ inner.transpose(1, 2)
    columns = factor.reshape(-1, count, GROUP).transpose(0, 1)
    outer = torch.linalg.solve_triangular(inner, columns, upper=True, left=False, unitriangular=True)
    return outer.transpose(0, 1).reshape(factor.shape), blocks


def _ways_mask() -> Tensor:
    """Returns the six ways to zero two of four elements, ``(6, 4)`` bool."""
    zeroed = torch.zeros(len(_WAYS), GROUP, dtype=torch.bool)
    return zeroed.scatter_(1, torch.tensor(_WAYS), value=True)


def _ways(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Returns what each way costs and by how much it changes a group, ``(groups, 6, 4, 4)`` each.

    A group ``v`` changes by ``v R``, which costs ``v Q vᵀ``: the elements ``z`` that become zero change by themselves,
    and the others ``k`` by ``-v_z P_zk P_kk⁻¹``, the least-squares optimum.
    """
    changes = blocks.new_zeros(blocks.shape[0], len(_WAYS), GROUP, GROUP)
    for index, zeroed in enumerate(_WAYS):
        z = torch.tensor(zeroed)
        k = torch.tensor([element for element in range(GROUP) if element not in zeroed])
        changes[:, index, z, z] = 1
        between, kept = blocks[:, z[:, None], k], blocks[:, k[:, None], k]
        changes[:, index, z[:, None], k] = -torch.linalg.solve(kept, between, left=False)
    return changes @ blocks.unsqueeze(1) @ changes.transpose(2, 3), changes


def _fraction(weight: Tensor, hessian: Tensor, fraction: float) -> Tensor:
    """Returns the weight with a fraction of zeros, every column given the errors of those before it."""
    factors, diagonals = unit_upper_factor(hessian.unsqueeze(0))
    factor, diagonal = factors[0], diagonals[0]
    errors, sparse = torch.zeros_like(weight), torch.empty_like(weight)
    for start in range(0, weight.shape[1], COLUMNS):
        stop = min(start + COLUMNS, weight.shape[1])
        corrected = weight[:, start:stop] + errors[:, :start] @ factor[:start, start:stop]
        scores = corrected.square() * diagonal[start:stop]
        order = torch.argsort(scores.flatten(), stable=True)[: round(fraction * scores.numel())]
        zeroed = torch.zeros(scores.numel(), dtype=torch.bool).index_fill_(0, order, value=True).reshape(scores.shape)
        for column in range(start, stop):
            value = corrected[:, column - start] + errors[:, start:column] @ factor[start:column, column]
            sparse[:, column] = value.masked_fill(zeroed[:, column - start], 0)
            errors[:, column] = weight[:, column] - sparse[:, column]
    return sparse


def _refit(weight: Tensor, sparse: Tensor, hessian: Tensor, iterations: int) -> Tensor:
    """Returns the kept elements at the optimum, by conjugate gradients on every row, with the diagonal before them.

    No step makes the error of a row larger, so that fewer steps than the optimum takes do no harm.
    """
    kept, diagonal = sparse != 0, torch.diagonal(hessian)
    found, residual = sparse.clone(), (weight - sparse) @ hessian * kept
    scaled = residual / diagonal
    direction, slope = scaled, (residual * scaled).sum(dim=1, keepdim=True)
    limit = TOLERANCE**2 * float(((weight @ hessian).square() / diagonal * kept).sum())
    for _ in range(iterations):
        if float(slope.sum()) <= limit:
            break
        product = direction @ hessian * kept
        curvature = (direction * product).sum(dim=1, keepdim=True)
        step = torch.where(curvature > 0, slope / curvature, torch.zeros_like(slope))
        found += step * direction
        residual -= step * product
        scaled = residual / diagonal
        before, slope = slope, (residual * scaled).sum(dim=1, keepdim=True)
        direction = scaled + torch.where(before > 0, slope / before, torch.zeros_like(slope)) * direction
    return found
