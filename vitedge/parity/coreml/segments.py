# SPDX-License-Identifier: Apache-2.0
"""What an ML MLProgram and the reference compute between the values in which they have to agree."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from vitedge.export.coreml.graph import CoreMLGraph
from vitedge.export.coreml.quantized import ACTIVATIONS, CONSTANTS
from vitedge.mlprogram.program import MLProgram, Operation
from vitedge.parity.coreml.alignment import Alignment, Anchor


@dataclass(frozen=True)
class Segment:
    """What leads to an anchor from those before it."""

    anchor: Anchor
    nodes: frozenset[str]
    """Of the reference's graph."""
    numbers: frozenset[float]
    """Single numbers that the program holds in float16."""
    compressed: bool
    """Whether the program has compressed constants there."""
    quantized: bool
    """Whether the reference itself rounds to integers there, or has weights that are integers."""
    rounded: bool
    """Whether it has float16 constants there that correspond to no known weight."""


def divide(program: MLProgram, graph: CoreMLGraph, alignment: Alignment) -> tuple[Segment, ...]:
    """The segment of every anchor, in the order of the anchors."""
    makers = {output.name: operation for operation in program.operations for output in operation.outputs}
    nodes = {node.name: node for node in graph.exported.graph.nodes}
    values = frozenset(anchor.value for anchor in alignment.anchors)
    anchored = frozenset(anchor.node for anchor in alignment.anchors)

    def reads(name: str) -> Iterable[str]:
        return () if name not in makers or makers[name].is_constant else makers[name].reads()

    def takes(name: str) -> Iterable[str]:
        return (node.name for node in nodes[name].all_input_nodes if node.op == "call_function")

    def segment(anchor: Anchor) -> Segment:
        reached = _between(anchor.value, values, reads)
        constants = [makers[name] for name in reached if name in makers and makers[name].is_constant]
        crossed = frozenset(_between(anchor.node, anchored, takes))
        half = [constant for constant in constants if constant.outputs[0].type.dtype == "float16"]
        return Segment(
            anchor,
            crossed,
            frozenset(_number(constant) for constant in half if _size(constant) == 1 and constant.kind == "const"),
            compressed=any(constant.kind != "const" for constant in constants),
            quantized=any(nodes[name].target in (*ACTIVATIONS, *CONSTANTS) for name in crossed),
            rounded=any(
                _size(constant) > 1 and constant.name not in alignment.known and not _is_neutral(constant)
                for constant in half
            ),
        )

    return tuple(segment(anchor) for anchor in alignment.anchors)


def numbers(segments: Iterable[Segment]) -> dict[str, frozenset[float]]:
    """Every node of the reference to the float16 numbers that the program holds in its place."""
    return {name: segment.numbers for segment in segments if segment.numbers for name in segment.nodes}


def _between(start: str, ends: frozenset[str], before: Callable[[str], Iterable[str]]) -> set[str]:
    """What is reached going back from an end without passing another one."""
    reached, left = {start}, [start]
    while left:
        for name in before(left.pop()):
            if name not in ends and name not in reached:
                reached.add(name)
                left.append(name)
    return reached


def _size(constant: Operation) -> int:
    return math.prod(edge or 0 for edge in constant.outputs[0].type.shape or ())


def _number(constant: Operation) -> float:
    return float(constant.attributes["val"].decode().reshape(-1)[0])


def _is_neutral(constant: Operation) -> bool:
    """All zeros or all ones: such biases and statistics are added by coremltools, and nothing of them is rounded."""
    if constant.kind != "const":
        return False
    value = constant.attributes["val"].decode()
    return bool((value == 0).all() or (value == 1).all())
