# SPDX-License-Identifier: Apache-2.0
"""Measures of the rows of a softmax, and of their loss by rounding.

Entropy and distance are those of the PiT paper (arXiv:2103.16302, "attention analysis"), for spatial tokens alone; the
entries are ``a_ji``, the share of token i in what query j gets.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vitedge.quantization.parameters import QuantizationParameters, fake_quantize
from vitedge.records import ModelSpec

_PREFIXED = ("vit", "beit", "pit")
"""Families whose token lists start with tokens that have no position on the map."""
_MASKED = 1e-30
"""Entries below count as excluded by a mask: Swin's adds -100, which leaves ``exp(-100)`` = 4e-44."""
_FARTHEST_ASPECT = 1.5
"""Largest factor between a map's ratio of height to width and the image's."""


def prefix_tokens(spec: ModelSpec) -> int:
    """Returns the number of tokens without a position that stand before the spatial ones."""
    if spec.family not in _PREFIXED:
        return 0
    registers = spec.options.get("registers", 0) if "register" in spec.tokens else 0
    return ("class" in spec.tokens) + ("distillation" in spec.tokens) + int(registers)


def token_map(spec: ModelSpec, tokens: int) -> tuple[int, int] | None:
    """Returns height and width of the map that an attention's spatial tokens form, row by row.

    Args:
        spec: gives the image's shape and the tokens without a position. Swin attends within windows, which are square.
        tokens: number of tokens that are attended to, those without a position included.

    Returns:
        The two factors of the number of spatial tokens whose ratio is nearest to the image's; None if none is near.
    """
    count = tokens - prefix_tokens(spec)
    height, width = (1, 1) if spec.family == "swin" else spec.image_size
    sides = [side for side in range(1, count + 1) if count % side == 0]
    if not sides:
        return None
    distance, side = min((abs(math.log(side * side / count * width / height)), side) for side in sides)
    return (side, count // side) if distance <= math.log(_FARTHEST_ASPECT) else None


def spatial(probabilities: Tensor, prefix: int, *, queries: bool = True) -> Tensor:
    """Returns the attention of spatial tokens to spatial tokens, every row normalized to a sum of one.

    Args:
        probabilities: ``(..., queries, tokens)``, not negative.
        prefix: number of leading tokens to leave out.
        queries: whether the rows are tokens too, so that as many leading rows are left out.

    Returns:
        ``(..., queries, tokens)``; a row without any mass stays zero.
    """
    kept = probabilities[..., prefix if queries else 0 :, prefix:]
    mass = kept.sum(dim=-1, keepdim=True)
    return kept / torch.where(mass > 0, mass, torch.ones_like(mass))


def entropy(probabilities: Tensor) -> Tensor:
    """Returns ``-sum_i a_ji log a_ji`` in nats, per row: ``(..., queries, tokens)`` to ``(..., queries)``."""
    terms: Tensor = torch.special.entr(probabilities)
    return terms.sum(dim=-1)


def distance(probabilities: Tensor, shape: tuple[int, int]) -> Tensor:
    """Returns ``sum_i a_ji |p_i - p_j|_1`` per row, with ``p_i = (x_i / width, y_i / height)``.

    Args:
        probabilities: ``(..., tokens, tokens)``, spatial, rows summing to one.
        shape: height and width of the map.

    Returns:
        ``(..., tokens)``.
    """
    places = _places(shape)
    return (probabilities * torch.cdist(places, places, p=1)).sum(dim=-1)


def distance_to_centroid(probabilities: Tensor, shape: tuple[int, int]) -> Tensor:
    """Returns ``sum_i a_i |p_i - c|_1``, ``c = sum_i a_i p_i``: for separable attention, whose query has no position.

    Args:
        probabilities: ``(..., tokens)``, spatial, rows summing to one.
        shape: height and width of the map.

    Returns:
        ``(...,)``.
    """
    places = _places(shape)
    centroid = probabilities @ places
    return (probabilities * (places - centroid.unsqueeze(-2)).abs().sum(dim=-1)).sum(dim=-1)


def divergence(expected: Tensor, found: Tensor) -> Tensor:
    """Returns the Kullback-Leibler divergence ``sum_i a_ji log(a_ji / b_ji)`` in nats, per row; never below zero.

    Entries of ``found`` that underflow count as float32's smallest normal number.

    Args:
        expected: ``a``, ``(..., queries, tokens)``.
        found: ``b``, the same shape.
    """
    floor = torch.finfo(found.dtype).tiny
    terms: Tensor = torch.special.xlogy(expected, expected) - torch.special.xlogy(expected, found.clamp_min(floor))
    return terms.sum(dim=-1).clamp_min(0.0)


def round_to_levels(probabilities: Tensor, levels: int) -> Tensor:
    """Rounds probabilities to ``0, 1 / levels, … 1``: 255 levels for uint8, 127 for int8 without a zero point."""
    qparams = QuantizationParameters(
        "uint8" if levels > 127 else "int8", torch.tensor(1.0 / levels), torch.tensor(0, dtype=torch.int32)
    )
    return fake_quantize(probabilities, qparams)


def dead_fraction(probabilities: Tensor, rounded: Tensor) -> float:
    """Returns the share of the entries that rounding made zero, of those that no mask excludes."""
    alive = probabilities > _MASKED
    return float((alive & (rounded == 0)).sum() / alive.sum().clamp_min(1))


def _places(shape: tuple[int, int]) -> Tensor:
    """Returns the position of each token in widths and heights, ``(height * width, 2)``."""
    height, width = shape
    rows, columns = torch.meshgrid(torch.arange(height) / height, torch.arange(width) / width, indexing="ij")
    return torch.stack((columns.flatten(), rows.flatten()), dim=-1)
