# SPDX-License-Identifier: Apache-2.0
"""Queries and keys of an attention on sampled rows, and the rounding error of their products."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vitedge.calibration.observations import Stats
from vitedge.program.editor import Editor
from vitedge.program.structure import Attention, Operand
from vitedge.quantization.steps.rounding_error import Precision, round_activation

TOKENS = 128
"""Largest number of rows that a measurement takes as queries, and as keys."""


@dataclass(frozen=True, eq=False)
class Scores:
    """Queries and keys, ``(heads, rows, dim)`` each."""

    query: Tensor
    key: Tensor

    def noise(self, precision: Precision, exact: Tensor) -> float:
        """Returns the noise power of the products when both operands are rounded, relative to their signal power.

        The mean over the keys is subtracted from each query's row first, because softmax is invariant to it.

        Args:
            precision: gives the integer type of the operands.
            exact: the `products` without rounding.
        """
        rounded = Scores(_rounded(self.query, precision), _rounded(self.key, precision))
        signal = float(exact.square().sum())
        return float((rounded.products() - exact).square().sum()) / signal if signal > 0 else 0.0

    def products(self) -> Tensor:
        """Returns the scores ``(heads, queries, keys)`` less their mean over the keys."""
        products = self.query[:, :TOKENS] @ self.key[:, -TOKENS:].transpose(-2, -1)
        return products - products.mean(-1, keepdim=True)


def observed_scores(editor: Editor, attention: Attention, inputs: dict[str, Stats]) -> Scores | None:
    """Returns an attention's queries and keys on the sampled rows of its input; None where there are none.

    Args:
        editor: of the program.
        attention: gives the layers that compute queries and keys.
        inputs: layer to the calibration statistics of its input.
    """
    query, key = attention.query, attention.key
    if query is None or key is None or not {query.layer.name, key.layer.name} <= inputs.keys():
        return None
    return Scores(_computed(editor, query, inputs), _computed(editor, key, inputs))


def _computed(editor: Editor, operand: Operand, inputs: dict[str, Stats]) -> Tensor:
    rows = inputs[operand.layer.name].rows[: 4 * TOKENS]
    weight = editor.value(operand.layer.weight)[operand.rows.flatten()].float().flatten(1)
    bias = editor.value(operand.layer.bias)[operand.rows.flatten()].float()
    return (rows @ weight.T + bias).reshape(-1, *operand.rows.shape).movedim(1, 0)


def _rounded(values: Tensor, precision: Precision) -> Tensor:
    low, high = torch.aminmax(values)
    return round_activation(values, float(low), float(high), precision.activations)
