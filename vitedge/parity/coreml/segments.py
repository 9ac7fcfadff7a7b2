# SPDX-License-Identifier: Apache-2.0
"""Divides an ML Program and the reference into the segments between the values in which the two have to agree."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from vitedge.export.coreml.graph import CoreMLGraph
from vitedge.export.coreml.quantized import ACTIVATIONS
from vitedge.mlprogram.program import MLProgram, Operation
from vitedge.parity.coreml.alignment import Alignment, Anchor
from vitedge.program.qdq import CONSTANTS


@dataclass(frozen=True)
class Segment:
    """The operations that compute an anchor from the anchors before it, in the program and in the reference."""

    anchor: Anchor
    nodes: frozenset[str]
    """The segment's nodes in the reference's graph."""
    numbers: frozenset[float]
    """The segment's scalar constants in the program, if they are float16."""
    compressed: bool
    """Whether the program has compressed constants in the segment."""
    quantized: bool
    """Whether the reference itself quantizes in the segment, or has integer weights there."""
    rounded: bool
    """Whether the program has float16 constants in the segment that correspond to no known weight."""


def divide(program: MLProgram, graph: CoreMLGraph, alignment: Alignment) -> tuple[Segment, ...]:
    """Returns the segment of every anchor, in the order of the anchors.

    Args:
        program: the ML Program.
        graph: the reference's captured graph.
        alignment: of the two.
    """
    producers = {output.name: operation for operation in program.operations for output in operation.outputs}
    nodes = {node.name: node for node in graph.exported.graph.nodes}
    values = frozenset(anchor.value for anchor in alignment.anchors)
    anchored = frozenset(anchor.node for anchor in alignment.anchors)

    def reads(name: str) -> Iterable[str]:
        return () if name not in producers or producers[name].is_constant else producers[name].reads()

    def takes(name: str) -> Iterable[str]:
        return (node.name for node in nodes[name].all_input_nodes if node.op == "call_function")

    def segment(anchor: Anchor) -> Segment:
        reached = _between(anchor.value, values, reads)
        constants = [producers[name] for name in reached if name in producers and producers[name].is_constant]
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
    """Returns the float16 scalars that the program has in the segment of each node of the reference, by node name."""
    return {name: segment.numbers for segment in segments if segment.numbers for name in segment.nodes}


def _between(start: str, ends: frozenset[str], before: Callable[[str], Iterable[str]]) -> set[str]:
    """Returns the names that are reached by going back from ``start``, not beyond any of the ``ends``."""
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
    """Returns whether a constant is all zeros or all ones, as biases and statistics are that coremltools adds."""
    if constant.kind != "const":
        return False
    value = constant.attributes["val"].decode()
    return bool((value == 0).all() or (value == 1).all())
