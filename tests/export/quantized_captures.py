# SPDX-License-Identifier: Apache-2.0
"""Tiny models of `coreml_models` with every layer quantized to the range that a few images show."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import Interpreter, Node

from tests.export.coreml.models import captured
from vitedge.program.canonical import canonicalize
from vitedge.program.constants import parameters
from vitedge.program.program import Program
from vitedge.program.structure import Layer, Structure, find_structure
from vitedge.quantization.insert import insert
from vitedge.quantization.parameters import ENDS, QuantizationParameters, quantize
from vitedge.quantization.plan import Plan

ZERO = torch.tensor(0, dtype=torch.int32)
UNIT = QuantizationParameters("int8", torch.tensor(1 / 127), ZERO)
"""Quantization parameters of the probabilities of an attention."""


def images(program: Program, count: int, seed: int = 0) -> Tensor:
    """Normalized noise as the program takes it, or pixels."""
    generator = torch.Generator().manual_seed(seed)
    shape = (count, *program.inputs[0].shape[1:])
    if program.inputs[0].dtype == "uint8":
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    return torch.randn(shape, generator=generator)


def quantized(
    family: str,
    activations: str | None = None,
    *,
    weights: str = "int8",
    attention: bool = False,
    dynamic: bool = False,
    **options: Any,
) -> Program:
    """The quantized program of a tiny member of a family.

    Args:
        family: key of `coreml_models.FAMILIES`.
        activations: kind of integers of every layer's input; None leaves them floats.
        weights: ``int8`` by channel, or ``int4`` in blocks of 16 where a Linear has whole ones.
        attention: whether the operands of its products are quantized too.
        dynamic: whether the inputs of all layers are quantized at run time.
        options: of `coreml_models.captured`.
    """
    program = canonicalize(captured(family, **options))
    structure = find_structure(program)
    ranges = _ranges(program, structure)
    plan = Plan(dynamic={layer.name for layer in structure.layers} if dynamic else set())
    for layer in structure.layers:
        grid = _weight_grid(layer, structure.editor.value(layer.weight), weights)
        plan.weights[layer.name] = (quantize(structure.editor.value(layer.weight).float(), grid), grid)
        if activations:
            plan.inputs[layer.name] = _grid(activations, *ranges[layer.input.name])
    for found in structure.attentions if attention else ():
        plan.attention[found.name] = _operands(structure, found.node, ranges)
    return insert(program, plan)


def _ranges(program: Program, structure: Structure) -> dict[str, tuple[float, float]]:
    """Name of every node that computes a tensor to its extremes, zero included."""
    found: dict[str, tuple[float, float]] = {}

    class Observer(Interpreter):
        def run_node(self, n: Node) -> Any:
            value = super().run_node(n)
            if isinstance(value, Tensor) and value.is_floating_point():
                low, high = found.get(n.name, (0.0, 0.0))
                found[n.name] = min(low, float(value.min())), max(high, float(value.max()))
            return value

    tensors = parameters(program.exported)
    nodes = [node.name for node in structure.editor.graph.nodes if node.op == "placeholder"]
    with torch.no_grad():
        for image in images(program, 12, seed=1):
            Observer(program.exported.graph_module).run(*(tensors.get(name, image[None]) for name in nodes))
    return found


def _grid(kind: str, low: float, high: float) -> QuantizationParameters:
    smallest, largest = ENDS[kind]
    if smallest < 0:
        return QuantizationParameters(kind, torch.tensor(max(-low, high) / largest), ZERO)
    scale = torch.tensor((high - low) / largest)
    return QuantizationParameters(kind, scale, torch.tensor(round(-low / float(scale)), dtype=torch.int32))


def _weight_grid(layer: Layer, weight: Tensor, kind: str) -> QuantizationParameters:
    blocks = kind == "int4" and layer.kind == "linear" and weight.shape[1] % 16 == 0
    rows = weight.float().reshape(len(weight), -1, 16 if blocks else weight[0].numel())
    scale = rows.abs().amax(-1).clamp_min(2.0**-40) / (7 if blocks else 127)
    scale = scale if blocks else scale[:, 0]
    return QuantizationParameters(
        "int4" if blocks else "int8", scale, torch.zeros_like(scale).int(), 0, 16 if blocks else None
    )


def _operands(
    structure: Structure, node: Node, ranges: dict[str, tuple[float, float]]
) -> dict[str, QuantizationParameters]:
    arguments: Any = node.args
    operands = dict(zip(("query", "key", "value"), arguments, strict=False))
    # The scores' factor of a fused attention goes to its query, which keeps the range that covers both.
    return {name: _grid("int8", *ranges[operand.name]) for name, operand in operands.items()} | {"probabilities": UNIT}
