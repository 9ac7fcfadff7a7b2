# SPDX-License-Identifier: Apache-2.0
"""Normalizations. Variances are those of the whole, divided by n."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (the name that everybody gives it)

from vitedge.mlprogram.ops.arguments import Table, integer, ints, number


def layer_norm(
    x: Tensor,
    axes: Tensor | None = None,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: Tensor | float = 1e-5,
) -> Tensor:
    """Gamma * (x - mean) / sqrt(variance + epsilon) + beta over some axes, all where none are given.

    Args:
        x: of any shape.
        axes: what mean and variance are taken over.
        gamma: of the shape that those axes have, in the order of x.
        beta: like gamma.
        epsilon: keeps the root from zero.
    """
    dims = sorted(dim % x.ndim for dim in ints(axes)) if axes is not None else list(range(x.ndim))
    shape = [x.shape[dim] for dim in dims]
    if dims == list(range(x.ndim - len(dims), x.ndim)):
        return F.layer_norm(x, shape, gamma, beta, number(epsilon))
    spread = [edge if dim in dims else 1 for dim, edge in enumerate(x.shape)]
    return _scaled(_standardized(x, dims, epsilon), gamma, beta, spread)


def batch_norm(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: Tensor | float = 1e-5,
) -> Tensor:
    """Gamma * (x - mean) / sqrt(variance + epsilon) + beta: x (N, C, ...), the others (C,)."""
    # Not F.batch_norm, which in older releases of PyTorch refuses an epsilon of 0.
    shape = [-1, *(1,) * (x.ndim - 2)]
    return _scaled((x - mean.reshape(shape)) / (variance.reshape(shape) + epsilon).sqrt(), gamma, beta, shape)


def instance_norm(
    x: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None, epsilon: Tensor | float = 1e-5
) -> Tensor:
    """Normalizes every channel of every image by its own mean and variance: x (N, C, ...), gamma and beta (C,)."""
    # Not F.instance_norm, which refuses channels of one element.
    return _scaled(_standardized(x, list(range(2, x.ndim)), epsilon), gamma, beta, [-1, *(1,) * (x.ndim - 2)])


def l2_norm(x: Tensor, epsilon: Tensor | float = 1e-6) -> Tensor:
    """X / sqrt(sum of squares + epsilon), where the sum is over the last three axes."""
    return x / (x.square().sum((-3, -2, -1), keepdim=True) + epsilon).sqrt()


def local_response_norm(
    x: Tensor,
    size: Tensor,
    alpha: Tensor | float = 1e-4,
    beta: Tensor | float = 0.75,
    k: Tensor | float = 1.0,
) -> Tensor:
    """X / (k + alpha / size * sum of squares over neighbouring channels) ** beta: x (N, C, ...).

    Of the ``size`` neighbours, ``size // 2`` come before the channel, as in PyTorch.
    """
    return F.local_response_norm(x, integer(size), number(alpha), number(beta), number(k))


def _standardized(x: Tensor, dims: list[int], epsilon: Tensor | float) -> Tensor:
    variance, mean = torch.var_mean(x, dims, correction=0, keepdim=True)
    return (x - mean) / (variance + epsilon).sqrt()


def _scaled(x: Tensor, gamma: Tensor | None, beta: Tensor | None, shape: list[int]) -> Tensor:
    """Gamma * x + beta, both brought to a shape that broadcasts over x."""
    if gamma is not None:
        x = x * gamma.reshape(shape)
    return x if beta is None else x + beta.reshape(shape)


OPS: Table = {
    "batch_norm": batch_norm,
    "instance_norm": instance_norm,
    "l2_norm": l2_norm,
    "layer_norm": layer_norm,
    "local_response_norm": local_response_norm,
}
