# SPDX-License-Identifier: Apache-2.0
"""Reductions and cumulative sums.

Integers stay integers: MIL gives a reduction the type of what it reduces, so that their mean is truncated.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vitedge.errors import UnreadableArtifact
from vitedge.mlprogram.ops.arguments import Function, Table, dtype_of, flag, integer, ints

Reduce = Callable[[Tensor, tuple[int, ...]], Tensor]
"""Takes x and the axes, at least one, and keeps those with an edge of one."""


def _over_axes(reduce: Reduce) -> Function:
    """A reduction under MIL's names: over all axes where none are given, over nothing where the list is empty."""

    def call(x: Tensor, axes: Tensor | None = None, *, keep_dims: Tensor | bool = False) -> Tensor:
        dims = tuple(range(x.ndim)) if axes is None else ints(axes)
        if not dims:
            return reduce(x.unsqueeze(0), (0,)).squeeze(0).to(x.dtype)
        reduced = reduce(x, dims).to(x.dtype)
        return reduced if flag(keep_dims) else reduced.squeeze(dims)

    return call


def _real(x: Tensor) -> Tensor:
    """X for what is no integer in between; float64 holds every int32."""
    return x if x.is_floating_point() else x.double()


def _mean(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    return _real(x).mean(dims, keepdim=True)


def _sum(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    return x.sum(dims, keepdim=True)


def _sum_square(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    return x.square().sum(dims, keepdim=True)


def _l1_norm(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    return x.abs().sum(dims, keepdim=True)


def _l2_norm(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    return _real(x).square().sum(dims, keepdim=True).sqrt()


def _log_sum(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    return _real(x).sum(dims, keepdim=True).log()


def _log_sum_exp(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    return torch.logsumexp(_real(x), dims, keepdim=True)


def _max(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    return x.amax(dims, keepdim=True)


def _min(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    return x.amin(dims, keepdim=True)


def _prod(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    for dim in dims:
        x = x.prod(dim, keepdim=True)
    return x


def reduce_argmax(
    x: Tensor, axis: Tensor | int = -1, *, keep_dims: Tensor | bool = False, output_dtype: str = "int32"
) -> Tensor:
    """Index of the largest along an axis, as int32 or uint16; which of several equal ones is left open."""
    return x.argmax(integer(axis), keepdim=flag(keep_dims)).to(_index_type(output_dtype))


def reduce_argmin(
    x: Tensor, axis: Tensor | int = -1, *, keep_dims: Tensor | bool = False, output_dtype: str = "int32"
) -> Tensor:
    """Index of the smallest along an axis, as int32 or uint16; which of several equal ones is left open."""
    return x.argmin(integer(axis), keepdim=flag(keep_dims)).to(_index_type(output_dtype))


def _index_type(name: str) -> torch.dtype:
    if name.lower() not in {"int32", "uint16"}:
        raise UnreadableArtifact(f"An index of type {name!r} is asked for; there are int32 and uint16.")
    return dtype_of(name.lower())


def cumsum(
    x: Tensor, axis: Tensor | int = 0, *, exclusive: Tensor | bool = False, reverse: Tensor | bool = False
) -> Tensor:
    """Sums up to each element along an axis, without itself if exclusive, from the end if reverse."""
    dim = integer(axis)
    if flag(reverse):
        x = x.flip(dim)
    sums = x.cumsum(dim)
    if flag(exclusive):
        # Shifted rather than subtracted from, which would round.
        sums = torch.cat((torch.zeros_like(sums.narrow(dim, 0, 1)), sums.narrow(dim, 0, sums.shape[dim] - 1)), dim)
    return sums.flip(dim) if flag(reverse) else sums


OPS: Table = {
    "cumsum": cumsum,
    "reduce_argmax": reduce_argmax,
    "reduce_argmin": reduce_argmin,
    "reduce_l1_norm": _over_axes(_l1_norm),
    "reduce_l2_norm": _over_axes(_l2_norm),
    "reduce_log_sum": _over_axes(_log_sum),
    "reduce_log_sum_exp": _over_axes(_log_sum_exp),
    "reduce_max": _over_axes(_max),
    "reduce_mean": _over_axes(_mean),
    "reduce_min": _over_axes(_min),
    "reduce_prod": _over_axes(_prod),
    "reduce_sum": _over_axes(_sum),
    "reduce_sum_square": _over_axes(_sum_square),
}
