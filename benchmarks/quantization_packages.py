# SPDX-License-Identifier: Apache-2.0
"""A quantized Core ML package run on the simulation's values.

An operation of the package bears the name of the program's node, so that any value of its own can be replaced by the
simulation's. As with a file (`benchmarks.quantization_pieces`), that is done once at the outputs of blocks, and once at
every rounded value.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.quantization_pieces import Array, Piece, apart, piece
from vitedge.export.coreml.graph import CoreMLGraph, to_coreml_graph
from vitedge.mlprogram.interpreter import MLProgramInterpreter
from vitedge.mlprogram.package import read_package
from vitedge.mlprogram.program import read_program
from vitedge.parity.coreml.values import ReferenceRounding, ReferenceValues
from vitedge.program.program import Program
from vitedge.program.qdq import DEQUANTIZE, QUANTIZE


def compare(package: Path, program: Program, images: Array) -> Iterator[Piece]:
    """Every piece of a package, in the order of execution.

    Args:
        package: of float32 arithmetic.
        program: quantized, of batch 1, that it was lowered from.
        images: ``(count, channels, height, width)`` float32, normalized.
    """
    graph, interpreter = (
        to_coreml_graph(program, probabilities=False),
        MLProgramInterpreter(read_program(read_package(package))),
    )
    (image_input,) = interpreter.program.inputs
    reference = ReferenceValues(graph.exported, ReferenceRounding())
    rounded = [node.name for node in graph.exported.graph.nodes if node.target is DEQUANTIZE]
    pieces = _pieces(graph)
    quantizers = [name for names in pieces.values() for name in names]
    spread: dict[str, list[Array]] = defaultdict(list)
    alone: dict[str, int] = defaultdict(int)
    for image in torch.from_numpy(images).split(1):
        given, edges = {image_input.name: image}, [*graph.blocks.values()]
        expected = reference.compute(image, [*quantizers, *rounded, *edges])
        by_blocks, one_by_one = (
            interpreter.run(given, quantizers, substitutes={name: expected[name] for name in fed})
            for fed in (edges, rounded)
        )
        for name in quantizers:
            # A zero point of 128 becomes none, of integers that are signed in place of unsigned.
            shift = 128 if by_blocks[name].dtype != expected[name].dtype else 0
            integers = expected[name].int().numpy() - shift
            spread[name].append(apart(by_blocks[name].numpy(), integers))
            alone[name] = max(alone[name], int(apart(one_by_one[name].numpy(), integers).max()))
    for block, names in pieces.items():
        every = np.concatenate([part for name in names for part in spread[name]])
        yield piece((block,), every, max(alone[name] for name in names))


def _pieces(graph: CoreMLGraph) -> dict[str, list[str]]:
    """The block whose output was the last, or ``image``, to the quantizers that follow before the next."""
    blocks = {node: block for block, node in graph.blocks.items()}
    last, pieces = "image", defaultdict(list)
    for node in graph.exported.graph.nodes:
        if node.target is QUANTIZE:
            pieces[last].append(node.name)
        last = blocks.get(node.name, last)
    return dict(pieces)
