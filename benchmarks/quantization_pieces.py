# SPDX-License-Identifier: Apache-2.0
"""A quantized file run on the simulation's values, cut where both have the same value.

What reads the value at a cut is given the simulation's instead, so that a difference stays where it arises. Cut at the
outputs of blocks, an integer that falls to the other side of a half still moves those after it within its block; cut at
every rounded value as well, each integer is computed from exactly what the simulation computed it from.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from vitedge import registry
from vitedge.program.execution import Execution
from vitedge.program.modules import block_outputs
from vitedge.program.program import Program
from vitedge.program.qdq import QUANTIZE

Array = np.ndarray[Any, Any]
Key = tuple[float, int, int]
"""Scale, zero point and, where several have the same of both, which of them: by that a quantizer of the program and one
of the file are recognized."""
_OTHER_ORDER = 0.01
"""Share of integers that differ by more than one from which on tokens are taken to stand in another order."""


@dataclass(frozen=True)
class Piece:
    """The integers between the outputs of blocks, over all images."""

    after: tuple[str, ...]
    """The values that it starts from."""
    integers: int
    flipped: float
    """Share that differs from the simulation's."""
    apart: int
    """Largest difference."""
    further: int
    """Number of integers that differ by more than one."""
    apart_alone: int
    """Largest difference where every integer is computed from the simulation's integers."""


def piece(after: tuple[str, ...], every: Array, alone: int) -> Piece:
    """A piece, of how far apart each of its integers is.

    Args:
        after: the values that it starts from.
        every: what `apart` makes of all of them.
        alone: the largest difference where each is computed from the simulation's integers.
    """
    return Piece(
        after=after,
        integers=every.size,
        flipped=round(float(np.mean(every > 0)), 6),
        apart=int(every.max()),
        further=int(np.sum(every > 1)),
        apart_alone=alone,
    )


def apart(one: Array, other: Array) -> Array:
    """Returns the differences of integers as one row."""
    difference: Array = np.abs(one.astype(np.int32) - other.astype(np.int32))
    return difference.ravel()


@dataclass(frozen=True)
class Edge:
    """A value at which a file is cut: a block's output, or the same before data-movement ops."""

    block: str
    back: tuple[Callable[[Array], Array], ...] = ()
    """Functions that undo the data-movement ops, the last of them first."""

    def before(self, node: onnx.NodeProto, shapes: Mapping[str, Sequence[int]]) -> Edge:
        """The same before a Reshape or a Transpose."""
        if node.op_type == "Transpose":
            return Edge(self.block, (*self.back, partial(np.transpose, axes=np.argsort(node.attribute[0].ints))))
        return Edge(self.block, (*self.back, partial(np.reshape, shape=shapes[node.input[0]])))

    def feed(self, floats: Mapping[str, Array]) -> Array:
        """The simulation's value in the file's layout."""
        value = floats[self.block]
        for undo in self.back:
            value = undo(value)
        return value


class File:
    """An int8 file beside the program that it was lowered from.

    Args:
        model: with the shapes of its values.
        program: quantized, of batch 1.
        blocks: block to the name of its value in the file.
        folder: gets the files that are run.
    """

    def __init__(self, model: onnx.ModelProto, program: Program, blocks: Mapping[str, str], folder: Path) -> None:
        self._model, self._program, self._folder = model, program, folder
        self._edges = _edges(model, blocks) | {program.inputs[0].name: Edge("")}
        self._chains = _chains(model)

    def compare(self, images: Array) -> Iterator[Piece]:
        """Every piece; the quantizers between the same blocks are one.

        Args:
            images: ``(count, channels, height, width)`` float32, normalized.

        Raises:
            SystemExit: the file has other tokens than the simulation, so nothing can be said.
        """
        values = [_simulate(self._program, image[None]) for image in images]
        feeds = [{name: edge.feed(floats) for name, edge in self._edges.items()} for floats, _ in values]
        outputs = [name for _, chain in self._chains.values() for name in chain]
        found = self._run(list(self._edges), outputs, feeds)
        spread: dict[str, list[Array]] = defaultdict(list)
        placed: dict[str, str] = {}
        for image, (_, integers) in enumerate(values):
            for quantizer, (key, chain) in self._chains.items():
                at, expected = _in_the_file([found[image][name] for name in chain], integers[key])
                placed[quantizer] = chain[at]
                feeds[image][chain[at]] = expected
                spread[quantizer].append(apart(found[image][chain[at]], expected))
        again = self._run([*self._edges, *placed.values()], list(placed.values()), feeds)
        alone = {
            quantizer: max(int(apart(one[name], feed[name]).max()) for one, feed in zip(again, feeds, strict=True))
            for quantizer, name in placed.items()
        }
        for start, quantizers in _pieces(self._model, set(self._edges), list(self._chains)).items():
            every = np.concatenate([part for quantizer in quantizers for part in spread[quantizer]])
            after = tuple(self._edges[name].block or "image" for name in start)
            yield piece(after, every, max(alone[quantizer] for quantizer in quantizers))

    def _run(
        self, cuts: Sequence[str], outputs: Sequence[str], feeds: Sequence[Mapping[str, Array]]
    ) -> list[dict[str, Array]]:
        """The outputs for every image, with the simulation's values at the cuts."""
        path = self._folder / "cut.onnx"
        onnx.save(_cut(self._model, cuts, outputs), path)
        with registry.load(registry.RUNTIMES, "onnxruntime").Runtime(path) as runtime:
            names = {spec.name for spec in runtime.inputs}
            return [
                runtime.run({_fed(name): value for name, value in feed.items() if _fed(name) in names})
                for feed in feeds
            ]


def _fed(name: str) -> str:
    return f"{name}.fed"


def _cut(model: onnx.ModelProto, cuts: Sequence[str], outputs: Sequence[str]) -> onnx.ModelProto:
    """The same model with an input in place of every value at a cut, for whatever reads it; only needed nodes stay."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    known = {value.name: value for value in (*graph.input, *graph.value_info, *graph.output)}
    for node in graph.node:
        node.input[:] = [_fed(name) if name in cuts else name for name in node.input]
    needed, kept = set(outputs), []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(node.input)
    del graph.node[:], graph.input[:], graph.output[:]
    graph.node.extend(reversed(kept))
    for name in cuts:
        if _fed(name) in needed:
            graph.input.append(known[name])
            graph.input[-1].name = _fed(name)
    graph.output.extend(known[name] for name in outputs)
    stored = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.initializer[:]
    graph.initializer.extend(stored)
    return result


def _edges(model: onnx.ModelProto, blocks: Mapping[str, str]) -> dict[str, Edge]:
    """Returns every value that equals a block's output in some layout."""
    shapes = {
        value.name: [edge.dim_value for edge in value.type.tensor_type.shape.dim] for value in model.graph.value_info
    }
    makers = {node.output[0]: node for node in model.graph.node}
    edges: dict[str, Edge] = {}
    for block, name in blocks.items():
        edges[name] = edge = Edge(block)
        node = makers.get(name)
        while node is not None and node.op_type in ("Reshape", "Transpose"):
            edge = edge.before(node, shapes)
            edges[node.input[0]] = edge
            node = makers.get(node.input[0])
    return edges


def _simulate(program: Program, image: Array) -> tuple[dict[str, Array], dict[Key, Array]]:
    """The outputs of all blocks, with the image itself under no name, and the integers of all quantizers."""
    floats: dict[str, Array] = {"": image}
    integers: dict[Key, Array] = {}
    watches: dict[str, Callable[[Tensor], None]] = {}
    for block, node in block_outputs(program.exported, program.blocks).items():
        watches[node] = lambda value, block=block: floats.update({block: value.numpy().copy()})
    quantizers = [node for node in program.exported.graph.nodes if node.target is QUANTIZE]
    keys = _numbered((float(np.float32(node.args[1])), int(node.args[2])) for node in quantizers)
    for node, key in zip(quantizers, keys, strict=True):
        watches[node.name] = lambda value, key=key: integers.update({key: value.numpy().copy()})
    Execution(program.exported, watches)(torch.from_numpy(image))
    return floats, integers


def _chains(model: onnx.ModelProto) -> dict[str, tuple[Key, list[str]]]:
    """Output of a QuantizeLinear to its key, and to itself with everything that it is moved to afterwards.

    Several that are joined afterwards were one in the program: the first stands for all. The key is that of the
    DequantizeLinear behind, where there is one: a constant factor may have gone into the scale of the rounding alone.
    """
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    readers: dict[str, onnx.NodeProto] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, node)
    chains: dict[str, tuple[onnx.NodeProto, list[str]]] = {}
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            chain = _moved(node.output[0], readers)
            reader = readers[chain[-1]]
            chains.setdefault(chain[-1], (reader if reader.op_type == "DequantizeLinear" else node, chain))
    qparams = [node.input[1:3] for node, _ in chains.values()]
    keys = _numbered((float(constants[scale]), int(constants[zero_point])) for scale, zero_point in qparams)
    return {chain[0]: (key, chain) for (_, chain), key in zip(chains.values(), keys, strict=True)}


def _moved(value: str, readers: Mapping[str, onnx.NodeProto]) -> list[str]:
    chain = [value]
    while (reader := readers.get(chain[-1])) is not None and reader.op_type in ("Reshape", "Transpose", "Concat"):
        chain.append(reader.output[0])
    return chain


def _numbered(qparams: Iterable[tuple[float, int]]) -> Iterator[Key]:
    seen: Counter[tuple[float, int]] = Counter()
    for pair in qparams:
        yield (*pair, seen[pair])
        seen[pair] += 1


def _pieces(model: onnx.ModelProto, edges: set[str], wanted: Sequence[str]) -> dict[tuple[str, ...], list[str]]:
    """The edges that a wanted value is computed from without another edge between, to all such values."""
    reached: dict[str, frozenset[str]] = {}
    for node in model.graph.node:  # in order of execution
        sources = [
            frozenset({name}) if name in edges else reached.get(name, frozenset()) for name in node.input if name
        ]
        for output in node.output:
            reached[output] = frozenset().union(*sources)
    pieces: dict[tuple[str, ...], list[str]] = {}
    for name in wanted:
        pieces.setdefault(tuple(sorted(reached[name])), []).append(name)
    return pieces


def _in_the_file(chain: Sequence[Array], simulated: Array) -> tuple[int, Array]:
    """The simulation's integers in the layout that the file has them in.

    The file may hold a value with its channels elsewhere, or its tokens in another order: windows, patches of pixels.
    Other tokens than the simulation's it may not have: where the order differs, the nearest tokens, over all channels
    at once, have to be a permutation of them.

    Args:
        chain: the file's integers, and the same after each of the movements that follow.
        simulated: the simulation's, in one of these layouts.

    Returns:
        Which of the chain, and what the simulation has in its place.

    Raises:
        SystemExit: the file has other tokens than the simulation, so nothing can be said.
    """
    pairs = [
        (at, axis, _tokens(array, axis), _tokens(simulated, other))
        for at, array in enumerate(chain)
        for axis in _channel_axes(array)
        for other in _channel_axes(simulated)
    ]
    pairs = [pair for pair in pairs if pair[2].shape == pair[3].shape]
    for at, axis, found, expected in pairs:
        if np.mean(apart(found, expected) > 1) < _OTHER_ORDER:
            return at, _untokened(expected, chain[at], axis)
    for at, axis, found, expected in pairs:
        one, other = (torch.from_numpy(tokens.astype(np.float32)) for tokens in (found, expected))
        match = torch.cdist(one, other, p=1.0).argmin(dim=1).numpy()
        if len(set(match.tolist())) == len(match):
            return at, _untokened(expected[match], chain[at], axis)
    raise SystemExit(f"the tokens of {chain[-1].shape} are not those of {simulated.shape}")


def _channel_axes(array: Array) -> tuple[int, ...]:
    """Returns the axes that may be the channels of a value; of an image, also the one before its height and width."""
    return (-1, 1) if array.ndim == 4 else (-1,)


def _tokens(array: Array, axis: int) -> Array:
    """Returns an array as ``(tokens, channels)``."""
    return np.moveaxis(array, axis, -1).reshape(-1, array.shape[axis])


def _untokened(tokens: Array, like: Array, axis: int) -> Array:
    """The reverse of `_tokens`, in the shape and type of a value."""
    shape = np.moveaxis(like, axis, -1).shape
    return np.ascontiguousarray(np.moveaxis(tokens.reshape(shape), -1, axis).astype(like.dtype))
