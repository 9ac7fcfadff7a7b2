# SPDX-License-Identifier: Apache-2.0
"""Tiny models of `tiny` as quantized programs, the ranges of their activations found on a few images."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.fx import Interpreter, Node

from tests.export import tiny
from vitedge.program.canonical import canonicalize
from vitedge.program.capture import capture
from vitedge.program.execution import Execution
from vitedge.program.program import Program
from vitedge.program.structure import Layer, Structure, find_structure
from vitedge.quantization.insert import insert
from vitedge.quantization.parameters import ENDS, QuantizationParameters, quantize
from vitedge.quantization.plan import Plan


def quantized(
    name: str, scheme: str = "uint8", batch: int | str = 1, kinds: tuple[str, ...] = ("linear", "conv")
) -> Program:
    """A tiny model as a quantized program, made once.

    Args:
        name: one of `tiny.NAMES`.
        scheme: kind of integers of the layers' inputs, ``dynamic``, or the kind of the weights alone: ``w8``, ``w4``.
        batch: as `capture` takes it.
        kinds: of the layers that are quantized.
    """
    return _quantized(name, scheme, batch, kinds)


@cache
def _quantized(name: str, scheme: str, batch: int | str, kinds: tuple[str, ...]) -> Program:
    program = canonicalize(capture(tiny.model(name), tiny.spec(name), tiny.BLOCKS[name], batch=batch))
    structure = find_structure(program)
    layers = [layer for layer in structure.layers if layer.kind in kinds]
    return insert(program, plan_for(program, structure, layers, scheme))


def plan_for(program: Program, structure: Structure, layers: list[Layer], scheme: str) -> Plan:
    """Weights per channel, or in blocks of 16 where ``w4`` can have them; inputs from the least to the largest seen."""
    plan = Plan(dynamic={layer.name for layer in layers} if scheme == "dynamic" else set())
    ranges = observed(program)
    for layer in layers:
        weight = structure.editor.value(layer.weight)
        grid = weight_grid(weight, scheme)
        plan.weights[layer.name] = (quantize(weight, grid), grid)
        if scheme in ENDS:
            plan.inputs[layer.name] = input_grid(*ranges[layer.input.name], scheme)
    return plan


def weight_grid(weight: Tensor, scheme: str) -> QuantizationParameters:
    if scheme == "w4" and weight.dim() == 2 and weight.shape[1] % 16 == 0:
        scale = weight.unflatten(1, (-1, 16)).abs().amax(2) / 7
        return QuantizationParameters("int4", scale, torch.zeros_like(scale, dtype=torch.int32), axis=0, block=16)
    scale = weight.flatten(1).abs().amax(1) / 127
    return QuantizationParameters("int8", scale, torch.zeros_like(scale, dtype=torch.int32), axis=0)


def input_grid(low: float, high: float, dtype: str) -> QuantizationParameters:
    if dtype == "int8":
        return QuantizationParameters(dtype, torch.tensor(max(-low, high) / 127), torch.tensor(0, dtype=torch.int32))
    scale = torch.tensor((high - low) / ENDS[dtype][1])
    return QuantizationParameters(dtype, scale, torch.round(-low / scale).to(torch.int32))


def observed(program: Program) -> dict[str, tuple[float, float]]:
    """The extremes of every value of a program, which enclose zero, over a few images."""
    ranges: dict[str, tuple[float, float]] = {}

    class Observer(Interpreter):
        def run_node(self, n: Node) -> object:
            value = super().run_node(n)
            if isinstance(value, Tensor) and value.is_floating_point():
                low, high = ranges.get(n.name, (0.0, 0.0))
                ranges[n.name] = min(low, float(value.min())), max(high, float(value.max()))
            return value

    size = program.inputs[0].shape[0]
    observer = Observer(program.exported.module())
    with torch.no_grad():
        for part in tiny.images().split(size if isinstance(size, int) else 6):
            observer.run(part)
    return ranges


def simulated(program: Program, images: Tensor) -> Tensor:
    """Returns PyTorch's outputs for images, one by one where the program takes one."""
    run = Execution(program.exported)
    size = program.inputs[0].shape[0]
    with torch.no_grad():
        return torch.cat([run(part)[0] for part in images.split(size if isinstance(size, int) else len(images))])
