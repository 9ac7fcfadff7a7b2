# SPDX-License-Identifier: Apache-2.0
"""Where a quantized program loses what: every layer and every attention against the float program's.

Both programs run side by side, one layer of each at a time, so that no more is held than one layer of each reads.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from vitedge.program.canonical import LAYERS
from vitedge.program.editor import aten
from vitedge.program.execution import Execution
from vitedge.program.modules import innermost_module
from vitedge.program.program import Program
from vitedge.program.qdq import DEQUANTIZE, DEQUANTIZE_TENSOR, QUANTIZE, QUANTIZE_TENSOR
from vitedge.program.structure import find_structure
from vitedge.quantization.attention.diagnostics import ATTENTIONS, AttentionSums, probabilities, rounded_probabilities
from vitedge.quantization.records import AttentionDiagnosis, LayerDiagnosis
from vitedge.runtimes.feeding import batches

_ROUNDING = (QUANTIZE, DEQUANTIZE, QUANTIZE_TENSOR, DEQUANTIZE_TENSOR)

Place = tuple[str, bool, int]
"""Module, whether it is an attention, and which of the module's: what a node is called in every form of a program."""


def diagnose(
    float_program: Program, quantized_program: Program, images: Tensor
) -> tuple[tuple[LayerDiagnosis, ...], tuple[AttentionDiagnosis, ...]]:
    """Compares every layer and every attention.

    Args:
        float_program: canonical, and with everything that was done to the quantized one but rounding: where channels
            were scaled (`Plan.tensors`), its own have to be, or what a layer computes is no longer the same value.
        quantized_program: what `vitedge.quantization.insert` made of the same reference; its batch may be another.
        images: ``(images, channels, height, width)`` as both programs take them; repeated where a fixed batch does not
            divide their number.

    Returns:
        The layers and the attentions, in order of execution.

    Raises:
        ValueError: the programs are not of the same reference.
    """
    structure = find_structure(float_program)
    names = {layer.node: layer.name for layer in structure.layers}
    nodes = {place: node for place, node in _places(float_program).items() if node in names or place[1]}
    counterparts = _places(quantized_program)
    pairwise = {attention.node for attention in structure.attentions}
    if not nodes.keys() <= counterparts.keys():
        raise ValueError(f"the quantized program has no {next(iter(nodes.keys() - counterparts.keys()))}")
    layers = {node: _LayerSums() for node in nodes.values() if node in names}
    attentions = {
        node: AttentionSums(float_program.spec, pairwise=node in pairwise)
        for node in nodes.values()
        if node not in names
    }
    expected = _Walk(float_program, tuple(nodes.values()))
    found = _Walk(quantized_program, tuple(counterparts[place] for place in nodes))
    for batch in batches(images, _batch_of(float_program, quantized_program)):
        for node, counterpart in zip(expected.steps(batch), found.steps(batch), strict=True):
            if node in layers:
                layers[node].add(_Seen(node, expected.env), _Seen(counterpart, found.env))
            else:
                held = probabilities(counterpart, found.env)
                rounded = rounded_probabilities(counterpart, held)
                attentions[node].add(probabilities(node, expected.env), held, rounded)
    return (
        tuple(sums.diagnosis(names[node]) for node, sums in layers.items()),
        tuple(sums.diagnosis(_attention_name(node)) for node, sums in attentions.items()),
    )


def measure_attended(program: Program, images: Tensor) -> dict[str, float]:
    """How many tokens a row of each attention's softmax effectively attends to, in the head that spreads widest.

    That is the exponential of the mean entropy of a head's rows, all tokens counted: what a uniform row of so many
    tokens has.

    Args:
        program: canonical.
        images: ``(images, channels, height, width)`` as the program takes them.
    """
    sums = {node: AttentionSums(program.spec) for place, node in _places(program).items() if place[1]}
    walk = _Walk(program, tuple(sums))
    for batch in batches(images, _batch_of(program)):
        for node in walk.steps(batch):
            sums[node].add_spread(probabilities(node, walk.env))
    return {_attention_name(node): found.attended for node, found in sums.items()}


class _Walk(Execution):
    """A program that stops at some of its nodes while it runs."""

    def __init__(self, program: Program, stops: tuple[Node, ...]) -> None:
        super().__init__(program.exported)
        self._nodes = tuple(program.exported.graph.nodes)
        self._stops = frozenset(stops)

    def steps(self, images: Tensor) -> Iterator[Node]:
        """Each stop as soon as it was computed; ``env`` then holds its value and what it read."""
        self.env = {}
        self.args_iter = iter([images if tensor is None else tensor for tensor in self._tensors])
        for node in self._nodes:
            if node.op == "output":
                return
            with torch.no_grad():
                self.env[node] = self.run_node(node)
            if node in self._stops:
                yield node
            for read in self.user_to_last_uses.get(node, ()):
                del self.env[read]


@dataclass(frozen=True)
class _Seen:
    """A layer that was just computed."""

    node: Node
    env: Mapping[Node, Any]

    def value(self, position: int) -> Tensor:
        """What the layer reads."""
        return self.env[self.node.args[position]]  # type: ignore[index, no-any-return]

    @property
    def shift(self) -> float:
        """What is subtracted from the layer's input before anything else, or 0."""
        start = _before_rounding(self.node)
        return float(start.args[1]) if _is_shift(start, self.node) else 0.0  # type: ignore[arg-type]

    @property
    def source(self) -> Node:
        """What the layer reads before its input is shifted and rounded."""
        start = _before_rounding(self.node)
        return start.all_input_nodes[0] if _is_shift(start, self.node) else start

    def compute(self, value: Tensor) -> Tensor:
        """The layer's output for another input, which was shifted and rounded already."""
        rest = torch.fx.map_arg(self.node.args[1:], lambda argument: self.env[argument])
        result: Tensor = self.node.target(value, *rest)  # type: ignore[operator]
        return result


@dataclass
class _Powers:
    """Signal and noise, summed over batches."""

    signal: float = 0.0
    noise: float = 0.0

    def add(self, expected: Tensor, error: Tensor) -> None:
        # Summed in float64, without a copy in it.
        self.signal += float(torch.linalg.vector_norm(expected, dtype=torch.float64)) ** 2
        self.noise += float(torch.linalg.vector_norm(error, dtype=torch.float64)) ** 2

    @property
    def decibels(self) -> float:
        if self.noise == 0.0:
            return math.inf
        return 10.0 * math.log10(self.signal / self.noise) if self.signal > 0.0 else -math.inf


@dataclass
class _LayerSums:
    """One layer over all batches."""

    output: _Powers = field(default_factory=_Powers)
    alone: _Powers = field(default_factory=_Powers)
    weight: _Powers = field(default_factory=_Powers)
    input: _Powers = field(default_factory=_Powers)
    clamped: int = 0
    elements: int = 0

    @torch.no_grad()
    def add(self, expected: _Seen, found: _Seen) -> None:
        output = expected.env[expected.node]
        self.output.add(output, found.env[found.node] - output)
        self.weight.add(expected.value(1), found.value(1) - expected.value(1))
        source = expected.value(0) + expected.shift
        rounded = _replay(found.node.args[0], found.source, source)
        self.input.add(source, rounded + found.shift - source)
        self.alone.add(output, found.compute(rounded) - output)
        self.clamped += _count_clamped(found, source - found.shift)
        self.elements += source.numel()

    def diagnosis(self, name: str) -> LayerDiagnosis:
        return LayerDiagnosis(
            layer=name,
            sqnr_db=self.output.decibels,
            alone_db=self.alone.decibels,
            weight_sqnr_db=self.weight.decibels,
            input_sqnr_db=self.input.decibels,
            saturation=self.clamped / self.elements,
        )


def _places(program: Program) -> dict[Place, Node]:
    """The layers and attentions of a program."""
    counts: Counter[tuple[str, bool]] = Counter()
    found: dict[Place, Node] = {}
    for node in program.exported.graph.nodes:
        if node.target in LAYERS or node.target in ATTENTIONS:
            module, is_attention = key = (innermost_module(node), node.target in ATTENTIONS)
            found[module, is_attention, counts[key]] = node
            counts[key] += 1
    return found


def _attention_name(node: Node) -> str:
    return innermost_module(node).removesuffix(".softmax")


def _batch_of(*programs: Program) -> int | str:
    """Returns the batch that all of the programs take; a fixed one goes before a dynamic one."""
    sizes = [program.inputs[0].shape[0] for program in programs]
    return next((size for size in sizes if isinstance(size, int)), sizes[0])


def _before_rounding(layer: Node) -> Node:
    node: Any = layer.args[0]
    while node.target in _ROUNDING:
        node = node.args[0]
    return node  # type: ignore[no-any-return]


def _is_shift(node: Node, layer: Node) -> bool:
    """Whether a node is what `vitedge.quantization.insert` puts before a layer whose input it shifts."""
    is_difference = node.target is aten.sub.Tensor and isinstance(node.args[1], (int, float))
    return is_difference and innermost_module(node) == innermost_module(layer)


def _replay(end: Any, start: Node, value: Tensor) -> Tensor:
    """What becomes of another value of ``start`` on the way to ``end``, between which only rounding lies."""
    known: dict[Node, Any] = {start: value}

    def compute(node: Node) -> Any:
        if node not in known:
            arguments = torch.fx.map_arg(node.args, compute)
            known[node] = node.target(*arguments)  # type: ignore[operator]
        return known[node]

    result: Tensor = compute(end)
    return result


def _count_clamped(found: _Seen, value: Tensor) -> int:
    """How many elements lie outside of the grid on which the layer's input is; 0 for a grid made to measure."""
    rounding: Any = found.node.args[0]
    if rounding.target is not DEQUANTIZE:
        return 0
    scale, zero_point, low, high = rounding.args[1:5]
    integers = torch.round(value * (1.0 / scale)) + zero_point
    return int(((integers < low) | (integers > high)).sum())
