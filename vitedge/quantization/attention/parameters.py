# SPDX-License-Identifier: Apache-2.0
"""The grids of what the products of an attention read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from vitedge.calibration.observations import Stats
from vitedge.program.attention import attention_scale
from vitedge.program.editor import aten
from vitedge.program.execution import Execution
from vitedge.program.structure import Structure, products
from vitedge.quantization.activation import activation_grid
from vitedge.quantization.observing import BATCH
from vitedge.quantization.plan import ENDS, QuantizationParameters

_MEASURED = ("query", "key", "value")


def attention_grids(
    structure: Structure, operands: Mapping[str, Sequence[str]], images: Tensor, dtype: str, ranges: str
) -> dict[str, dict[str, QuantizationParameters]]:
    """Sees queries, keys and values on some images; the softmax's range is from 0 to 1 whatever the images.

    Args:
        structure: of the float program.
        operands: attention to those of its operands that will be quantized.
        images: float32, normalized.
        dtype: ``uint8`` or ``int8``.
        ranges: an estimator, or ``auto``.

    Returns:
        As `vitedge.quantization.plan.Plan.attention`.
    """
    stats = {
        name: {operand: Stats() for operand in _MEASURED if operand in chosen} for name, chosen in operands.items()
    }
    watches: dict[str, Any] = {}
    for attention in structure.attentions:
        nodes, factor = _operands(attention.node)
        for operand, node in zip(_MEASURED, nodes, strict=True):
            if operand in stats.get(attention.name, ()):
                scale = factor if operand == "query" else 1.0
                watches[node.name] = partial(_see, stats[attention.name][operand], scale)
    for start in range(0, len(images), BATCH):
        Execution(structure.program.exported, watches)(images[start : start + BATCH])
    found: dict[str, dict[str, QuantizationParameters]] = {}
    for name, seen in stats.items():
        found[name] = {
            operand: activation_grid(f"{name} ({operand})", kept, dtype, ranges)[0] for operand, kept in seen.items()
        }
        if "probabilities" in operands[name]:
            certain = torch.tensor(1.0 / ENDS[dtype][1])
            found[name]["probabilities"] = QuantizationParameters(dtype, certain, torch.tensor(0, dtype=torch.int32))
    return found


def _operands(node: Node) -> tuple[tuple[Node, Node, Node], float]:
    """Query, key and value of an attention, and what the query is still to be multiplied with."""
    arguments: Any = node.args
    found = products(node) if node.target is aten.softmax.int else None
    if found is not None:
        query, key, value = *found.scores.args, found.result.args[1]
        return (query, key, value), 1.0  # type: ignore[return-value]
    scale: Any = node.kwargs.get("scale")
    dim = int(arguments[0].meta["val"].shape[-1])
    return arguments[:3], attention_scale(dim, scale)


def _see(stats: Stats, scale: float, value: Tensor) -> None:
    stats.update((value * scale).unsqueeze(-1))
