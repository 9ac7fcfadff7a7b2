# SPDX-License-Identifier: Apache-2.0
"""Compares every layer and every attention of a quantized program with the float program's.

Both programs run side by side, one layer of each at a time, so that memory holds the inputs of one layer of each.
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
from vitedge.progress import counted, stage
from vitedge.quantization.attention.diagnostics import ATTENTIONS, AttentionSums, probabilities, rounded_probabilities
from vitedge.quantization.records import AttentionDiagnosis, LayerDiagnosis
from vitedge.runtimes.feeding import batches

_ROUNDING = (QUANTIZE, DEQUANTIZE, QUANTIZE_TENSOR, DEQUANTIZE_TENSOR)

NodeKey = tuple[str, bool, int]
"""Module, whether the node is an attention, and its index in the module: it names a node in every form of a program."""


def diagnose(
    float_program: Program, quantized_program: Program, images: Tensor
) -> tuple[tuple[LayerDiagnosis, ...], tuple[AttentionDiagnosis, ...]]:
    """Compares every layer and every attention.

    Args:
        float_program: canonical, with all changes of the quantized one except rounding: where that has scaled channels
            (`Plan.tensors`), this needs them too, or outputs of layers are not comparable.
        quantized_program: made by `vitedge.quantization.insert` from the same reference; its batch may be another.
        images: ``(images, channels, height, width)`` as both programs take them; repeated where a fixed batch does not
            divide their number.

    Returns:
        The layers and the attentions, in order of execution.

    Raises:
        ValueError: the programs are not of the same reference.
    """
    structure = find_structure(float_program)
    names = {layer.node: layer.name for layer in structure.layers}
    nodes = {key: node for key, node in _nodes_by_key(float_program).items() if node in names or key[1]}
    counterparts = _nodes_by_key(quantized_program)
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
    found = _Walk(quantized_program, tuple(counterparts[key] for key in nodes))
    for batch in batches(images, _batch_of(float_program, quantized_program)):
        walks = zip(expected.steps(batch), found.steps(batch), strict=True)
        with stage("comparing layers"):
            for node, counterpart in counted(walks, len(nodes), unit="layer"):
                if node in layers:
                    layers[node].add(_ComputedLayer(node, expected.env), _ComputedLayer(counterpart, found.env))
                else:
                    unrounded = probabilities(counterpart, found.env)
                    rounded = rounded_probabilities(counterpart, unrounded)
                    attentions[node].add(probabilities(node, expected.env), unrounded, rounded)
    return (
        tuple(sums.diagnosis(names[node]) for node, sums in layers.items()),
        tuple(sums.diagnosis(_attention_name(node)) for node, sums in attentions.items()),
    )


def measure_attended(program: Program, images: Tensor) -> dict[str, float]:
    """Returns attention to the number of tokens that a row of its softmax effectively attends to.

    That is the exponential of the mean entropy of a head's rows, in the head where it is largest: a uniform row over
    so many tokens has that entropy.

    Args:
        program: canonical.
        images: ``(images, channels, height, width)`` as the program takes them.
    """
    sums = {node: AttentionSums(program.spec) for key, node in _nodes_by_key(program).items() if key[1]}
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
class _ComputedLayer:
    """A layer that was just computed, with the values that it read."""

    node: Node
    env: Mapping[Node, Any]

    def value(self, position: int) -> Tensor:
        """Returns the argument at a position of the layer's operator: 0 for the input, 1 for the weight."""
        return self.env[self.node.args[position]]  # type: ignore[index, no-any-return]

    @property
    def shift(self) -> float:
        """The constant that is subtracted from the layer's input before it is rounded, or 0."""
        start = _before_rounding(self.node)
        return float(start.args[1]) if _is_shift(start, self.node) else 0.0  # type: ignore[arg-type]

    @property
    def source(self) -> Node:
        """The node of the layer's input before it is shifted and rounded."""
        start = _before_rounding(self.node)
        return start.all_input_nodes[0] if _is_shift(start, self.node) else start

    def compute(self, value: Tensor) -> Tensor:
        """Returns the layer's output for another input, which is already shifted and rounded."""
        rest = torch.fx.map_arg(self.node.args[1:], lambda argument: self.env[argument])
        result: Tensor = self.node.target(value, *rest)  # type: ignore[operator]
        return result


@dataclass
class _Powers:
    """The powers of a signal and of its noise, summed over batches."""

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
    """Sums over all batches for the diagnosis of one layer."""

    output: _Powers = field(default_factory=_Powers)
    alone: _Powers = field(default_factory=_Powers)
    weight: _Powers = field(default_factory=_Powers)
    input: _Powers = field(default_factory=_Powers)
    clamped: int = 0
    elements: int = 0

    @torch.no_grad()
    def add(self, expected: _ComputedLayer, found: _ComputedLayer) -> None:
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


def _nodes_by_key(program: Program) -> dict[NodeKey, Node]:
    """Returns the nodes of the layers and attentions of a program, in order of execution."""
    counts: Counter[tuple[str, bool]] = Counter()
    found: dict[NodeKey, Node] = {}
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
    """Returns whether a node is the subtraction that `vitedge.quantization.insert` puts before a layer."""
    is_difference = node.target is aten.sub.Tensor and isinstance(node.args[1], (int, float))
    return is_difference and innermost_module(node) == innermost_module(layer)


def _replay(end: Any, start: Node, value: Tensor) -> Tensor:
    """Returns the value of ``end`` for another value of ``start``, between which only rounding lies."""
    known: dict[Node, Any] = {start: value}

    def compute(node: Node) -> Any:
        if node not in known:
            arguments = torch.fx.map_arg(node.args, compute)
            known[node] = node.target(*arguments)  # type: ignore[operator]
        return known[node]

    result: Tensor = compute(end)
    return result


def _count_clamped(found: _ComputedLayer, value: Tensor) -> int:
    """Counts the elements that the rounding of the layer's input clamps; 0 for dynamic quantization."""
    rounding: Any = found.node.args[0]
    if rounding.target is not DEQUANTIZE:
        return 0
    scale, zero_point, low, high = rounding.args[1:5]
    integers = torch.round(value * (1.0 / scale)) + zero_point
    return int(((integers < low) | (integers > high)).sum())
