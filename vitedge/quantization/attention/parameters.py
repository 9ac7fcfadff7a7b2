# SPDX-License-Identifier: Apache-2.0
"""The quantization parameters of the operands of an attention's matrix products."""

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
from vitedge.progress import counted
from vitedge.quantization.activation import activation_parameters
from vitedge.quantization.observing import BATCH
from vitedge.quantization.parameters import ENDS, QuantizationParameters

_MEASURED = ("query", "key", "value")


def attention_parameters(
    structure: Structure, operands: Mapping[str, Sequence[str]], images: Tensor, dtype: str, ranges: str
) -> dict[str, dict[str, QuantizationParameters]]:
    """Calibrates queries, keys and values on some images; the softmax's range is 0 to 1 whatever the images.

    Args:
        structure: of the float program.
        operands: attention to the names of its operands that will be quantized.
        images: ``(images, channels, height, width)``, float32, normalized.
        dtype: ``uint8`` or ``int8``.
        ranges: an estimator of `vitedge.calibration.ranges`, or ``auto``.

    Returns:
        Attention to operand to parameters, as `vitedge.quantization.plan.Plan.attention` has them.

    Raises:
        UnusableActivations: an operand holds NaN or infinity; names it.
    """
    parameters: dict[str, dict[str, QuantizationParameters]] = {}
    for name, stats in _observe(structure, operands, images).items():
        parameters[name] = {
            operand: activation_parameters(f"{name} ({operand})", seen, dtype, ranges)[0]
            for operand, seen in stats.items()
        }
        if "probabilities" in operands[name]:
            scale = torch.tensor(1.0 / ENDS[dtype][1])
            parameters[name]["probabilities"] = QuantizationParameters(dtype, scale, torch.tensor(0, dtype=torch.int32))
    return parameters


def _observe(
    structure: Structure, operands: Mapping[str, Sequence[str]], images: Tensor
) -> dict[str, dict[str, Stats]]:
    """Runs the program over the images and returns attention to operand to its statistics; softmax left out."""
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
    for start in counted(range(0, len(images), BATCH), unit="batch"):
        Execution(structure.program.exported, watches)(images[start : start + BATCH])
    return stats


def _operands(node: Node) -> tuple[tuple[Node, Node, Node], float]:
    """Returns query, key and value of an attention, and the factor that the query is still to be multiplied with."""
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
