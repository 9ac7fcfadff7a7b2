# SPDX-License-Identifier: Apache-2.0
"""The softmax of an attention in a program that runs, and its measures summed over batches."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from vitedge.program.attention import attention_scale
from vitedge.program.editor import aten
from vitedge.program.execution import rounded
from vitedge.program.qdq import QUANTIZE
from vitedge.program.tracing import readers
from vitedge.quantization.attention.measures import (
    dead_fraction,
    distance,
    distance_to_centroid,
    divergence,
    entropy,
    prefix_tokens,
    round_to_levels,
    spatial,
    token_map,
)
from vitedge.quantization.records import AttentionDiagnosis, SoftmaxSurvival
from vitedge.records import ModelSpec

ATTENTIONS = (aten.scaled_dot_product_attention.default, aten.softmax.int)
"""Operators that hold a softmax."""
LEVELS = (255, 127)
"""Integers that stand for a probability of 1: 255 for uint8 and 127 for int8."""


def probabilities(node: Node, env: Mapping[Node, Any]) -> Tensor:
    """Returns the softmax of an attention that was just computed, ``(..., heads, queries, tokens)``.

    Args:
        node: its node, with one of the operators `ATTENTIONS`.
        env: node to value; holds those of the node and its arguments.
    """
    if node.target is aten.softmax.int:
        result: Tensor = env[node]
        return result
    arguments: Any = node.args
    query, key = env[arguments[0]], env[arguments[1]]
    scale: Any = node.kwargs.get("scale")
    scores: Tensor = query @ key.transpose(-2, -1) * attention_scale(query.shape[-1], scale)
    if len(arguments) > 3 and arguments[3] is not None:
        mask = env[arguments[3]]
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype is torch.bool else scores + mask
    return scores.softmax(dim=-1)


def rounded_probabilities(node: Node, unrounded: Tensor) -> Tensor:
    """Returns the softmax as it is multiplied by the values: rounded, where the program rounds it.

    Args:
        node: of the attention.
        unrounded: its `probabilities`.
    """
    reading = readers(node) or []
    if node.target is not aten.softmax.int or len(reading) != 1 or reading[0][0].target is not QUANTIZE:
        return unrounded
    qparams: Any = reading[0][0].args[1:5]
    return rounded(unrounded, *qparams)


@dataclass
class _Mean:
    """A mean over batches; None where nothing was added."""

    total: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    count: int = 0

    def add(self, values: Tensor) -> None:
        """Adds the entries along the first axis."""
        self.total = self.total + values.double().sum(dim=0)
        self.count += len(values)

    @property
    def value(self) -> float | None:
        return float(self.total) / self.count if self.count else None


@dataclass
class AttentionSums:
    """Sums over all batches for the diagnosis of one attention."""

    spec: ModelSpec
    pairwise: bool = True
    """Whether queries are the tokens that are attended to; in MobileViT v2 they have no position."""
    tokens: int = 0
    """Entries of a row of the softmax."""
    _spread: _Mean = field(default_factory=_Mean)
    _means: dict[str, _Mean] = field(default_factory=dict)

    @property
    def attended(self) -> float:
        """The exponential of the mean entropy of the head that spreads widest."""
        return math.exp(float(self._spread.total.max()) / self._spread.count)

    def add_spread(self, expected: Tensor) -> None:
        """Adds a batch of the float program's softmax, ``(batch, heads, queries, tokens)``."""
        self.tokens = expected.shape[-1]
        self._spread.add(entropy(expected).movedim(-2, -1).reshape(-1, expected.shape[-3]))

    @torch.no_grad()
    def add(self, expected: Tensor, unrounded: Tensor, rounded: Tensor) -> None:
        """Adds a batch.

        Args:
            expected: the float program's softmax, ``(batch, heads, queries, tokens)``.
            unrounded: the quantized program's, before its output is rounded.
            rounded: the same as it is multiplied by the values.
        """
        self.add_spread(expected)
        self._add("kl", divergence(expected, unrounded))
        self._add("mass", rounded.sum(dim=-1))
        self._add("dead", torch.tensor(dead_fraction(unrounded, rounded)))
        for levels in LEVELS:
            rounded_expected = round_to_levels(expected, levels)
            self._add(f"mass {levels}", rounded_expected.sum(dim=-1))
            self._add(f"dead {levels}", torch.tensor(dead_fraction(expected, rounded_expected)))
        self._add_map("float", expected)
        self._add_map("quantized", rounded)

    def diagnosis(self, name: str) -> AttentionDiagnosis:
        """Returns the diagnosis of all batches that were added."""
        mean = {key: found.value for key, found in self._means.items()}
        return AttentionDiagnosis(
            attention=name,
            tokens=self.tokens,
            entropy_float=mean.get("entropy float"),
            entropy_quantized=mean.get("entropy quantized"),
            distance_float=mean.get("distance float"),
            distance_quantized=mean.get("distance quantized"),
            kl=mean["kl"] or 0.0,
            row_mass=mean["mass"] or 0.0,
            dead_fraction=mean["dead"] or 0.0,
            attended=self.attended,
            survival=tuple(
                SoftmaxSurvival(levels, mean[f"mass {levels}"] or 0.0, mean[f"dead {levels}"] or 0.0)
                for levels in LEVELS
            ),
        )

    def _add_map(self, which: str, values: Tensor) -> None:
        """Adds entropy and distance where the tokens form a map; a row that rounding emptied has neither."""
        shape = token_map(self.spec, values.shape[-1])
        if shape is None or (self.pairwise and values.shape[-2] != values.shape[-1]):
            return
        on_map = spatial(values, prefix_tokens(self.spec), queries=self.pairwise)
        alive = on_map.sum(dim=-1) > 0
        measure = distance if self.pairwise else distance_to_centroid
        self._add(f"entropy {which}", entropy(on_map)[alive])
        self._add(f"distance {which}", measure(on_map, shape)[alive])

    def _add(self, key: str, values: Tensor) -> None:
        self._means.setdefault(key, _Mean()).add(values.reshape(-1))
