# SPDX-License-Identifier: Apache-2.0
"""Matrix products and attention."""

from __future__ import annotations

import math
from itertools import zip_longest

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (the name that everybody gives it)

from vitedge.errors import UnreadableArtifact
from vitedge.mlprogram.ops.arguments import Table, allow, flag

NO = torch.zeros((), dtype=torch.bool)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x`` of shape (..., inputs) times the transpose of ``weight`` of shape (outputs, inputs), plus ``bias``."""
    if weight.dtype != x.dtype:  # from iOS17 on
        x, weight = _same(x, weight)
    return F.linear(x, weight, None if bias is None else bias.to(x.dtype))


def matmul(x: Tensor, y: Tensor, transpose_x: Tensor = NO, transpose_y: Tensor = NO) -> Tensor:
    """Product of the last two edges, the others broadcast; a flag swaps those two and does nothing to a vector."""
    if x.dtype != y.dtype:  # from iOS17 on, where one of them is a constant
        x, y = _same(x, y)
    if flag(transpose_x) and x.ndim > 1:
        x = x.transpose(-1, -2)
    if flag(transpose_y) and y.ndim > 1:
        y = y.transpose(-1, -2)
    pairs = zip_longest(reversed(x.shape[:-2]), reversed(y.shape[:-2]), fillvalue=1)
    allow((*(max(pair) for pair in pairs), *x.shape[-2:-1], *y.shape[-1:]))
    return torch.matmul(x, y)


def einsum(values: list[Tensor], equation: str) -> Tensor:
    """Einstein's sum over the labels that the right side of ``equation`` leaves out; edges of 1 broadcast."""
    terms, arrow, result = equation.replace(" ", "").partition("->")
    labels = terms.split(",")
    if not arrow or len(labels) != len(values):
        raise UnreadableArtifact(f"The equation {equation!r} of einsum is not one of {len(values)} values.")
    sizes: dict[str, int] = {}
    for term, value in zip(labels, values, strict=True):
        if len(term) != value.ndim:
            raise UnreadableArtifact(f"The equation {equation!r} of einsum does not fit {tuple(value.shape)}.")
        for label, size in zip(term, value.shape, strict=True):
            sizes[label] = max(sizes.get(label, 1), size)
    allow([sizes[label] for label in result])
    return torch.einsum(equation, *values)


def scaled_dot_product_attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    """``softmax(query key^T / sqrt(width) + mask) value`` over the last two edges.

    A mask of bools says which keys take part, one of numbers is added to the scores. It is written out where there is
    one, as MIL states it: a query that no key takes part in gets NaN, of which PyTorch's fused operation makes zeros.
    """
    if attn_mask is None:
        return F.scaled_dot_product_attention(query, key, value)
    if attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros(attn_mask.shape, dtype=query.dtype).masked_fill(~attn_mask, -math.inf)
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1]) + attn_mask
    return scores.softmax(dim=-1) @ value


def _same(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(x.dtype, y.dtype)
    return x.to(dtype), y.to(dtype)


OPS: Table = {
    "linear": linear,
    "matmul": matmul,
    "einsum": einsum,
    "scaled_dot_product_attention": scaled_dot_product_attention,
}
