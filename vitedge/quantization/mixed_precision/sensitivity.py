# SPDX-License-Identifier: Apache-2.0
"""The sensitivity of the output to each quantized part, measured with that part at a higher precision.

In arXiv:2004.09602, section 5.1, partial quantization is decided by the sensitivity of layers, there with one layer
quantized and all others in float. Here it is the other way round, because that is the step that the mixed-precision
search takes: everything is quantized, and one part gets a higher precision.

The power of the *change* of the output is compared. To the first order the errors of parts add up, and they are
uncorrelated (arXiv:1511.06393, section 3): then the change is the part's own error, and its power is the noise that the
candidate removes. The difference of the two errors' powers is the same on average, but contains the product with all
other errors, which over a few images is far larger than the share of one part and as often negative as not.

All parts are measured in one pass. Where a part begins, the pass branches: the rest of the program runs from the
values computed so far, so that a layer costs the time of the nodes after it and not of the whole program.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from vitedge.program.editor import aten
from vitedge.program.execution import Execution
from vitedge.program.modules import innermost_module
from vitedge.program.program import Program
from vitedge.program.qdq import DEQUANTIZE, DEQUANTIZE_TENSOR, QUANTIZE, QUANTIZE_TENSOR
from vitedge.program.structure import Structure
from vitedge.progress import count
from vitedge.quantization.parameters import dequantize
from vitedge.quantization.weights import nearest
from vitedge.quantization.weights.parameters import WeightSettings
from vitedge.quantization.weights.rounding import RoundedWeight

FLOAT = "float"
"""The scheme of parts that are not quantized."""
_ROUNDING = (QUANTIZE, DEQUANTIZE, QUANTIZE_TENSOR, DEQUANTIZE_TENSOR)


@dataclass(frozen=True)
class Candidate:
    """A part of the quantized program and a higher precision that it can have."""

    part: str
    """Name of a layer, or of an attention whose products are quantized."""
    scheme: str
    """The higher precision, a `vitedge.recipe.LayerScheme`."""


@dataclass(frozen=True, eq=False)
class Swap:
    """Another way to compute a node, from one other node."""

    reads: Node
    """The node whose value it takes."""
    compute: Callable[[Tensor], Tensor]


Swaps = Mapping[Candidate, Mapping[Node, Swap]]
"""Candidate to the nodes that are computed in another way with it."""


def weight_of_eight_bits(weight: Tensor) -> RoundedWeight:
    """Returns a weight rounded to int8 with one scale a channel: the step between four bits and float."""
    return nearest.round_weight(weight, WeightSettings("int8", None))


def find_swaps(plain: Structure, quantized: Structure, candidates: Sequence[Candidate]) -> Swaps:
    """Returns the nodes that each candidate computes in another way, for a quantized program.

    Args:
        plain: structure of the float program, with all changes of the quantized one except rounding.
        quantized: of the same reference, found before `vitedge.quantization.insert` altered its program.
        candidates: layers and attentions of both.
    """
    layers = {layer.name: layer for layer in quantized.layers}
    found: dict[Candidate, Mapping[Node, Swap]] = {}
    for one in candidates:
        if one.part not in layers:
            found[one] = _unrounded_operands(quantized.program, one.part)
            continue
        node, layer = layers[one.part].node, plain.layer(one.part)
        weight, bias = plain.editor.value(layer.weight), plain.editor.value(layer.bias)
        read: Any = node.args[0]
        if one.scheme == FLOAT:
            read = _before_rounding(read)
        else:
            rounding = weight_of_eight_bits(weight)
            weight = dequantize(rounding.integers, rounding.qparams)
        found[one] = {node: Swap(read, partial(_apply, node, weight, bias))}
    return found


def _apply(node: Node, weight: Tensor, bias: Tensor, value: Tensor) -> Tensor:
    target: Any = node.target
    result: Tensor = target(value, weight, bias, *node.args[3:], **node.kwargs)
    return result


def _unrounded_operands(program: Program, attention: str) -> Mapping[Node, Swap]:
    """Returns swaps that compute the operands of an attention's two products without rounding."""
    return {
        node: Swap(_before_rounding(node), lambda value: value)
        for node in program.exported.graph.nodes
        if node.target is DEQUANTIZE
        and innermost_module(node) == attention
        and any(user.target is aten.matmul.default for user in node.users)
    }


def _before_rounding(node: Node) -> Node:
    value: Any = node
    while value.target in _ROUNDING:
        value = value.args[0]
    return value  # type: ignore[no-any-return]


class MixedExecution(Execution):
    """A quantized program with a dynamic batch, any parts of which can be run at a higher precision."""

    def __init__(self, program: Program, swaps: Swaps) -> None:
        super().__init__(program.exported)
        self._swaps = swaps
        self._nodes = tuple(program.exported.graph.nodes)
        self._constants = self._computed_once()
        self._frees = self._last_reads()

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """All parts with the higher precisions that they can have."""
        return tuple(self._swaps)

    @torch.no_grad()
    def outputs(self, images: Tensor, candidates: Sequence[Candidate] = ()) -> Tensor:
        """Returns the first output for a batch of images, with some candidates at their higher precision."""
        swaps = {node: swap for one in candidates for node, swap in self._swaps[one].items()}
        return self._finish(0, self._begin(images), swaps)

    @torch.no_grad()
    def one_by_one(self, images: Tensor, see: Callable[[Candidate | None, Tensor], None]) -> None:
        """Computes the first output without a candidate, and with each alone, in one pass over a batch.

        Args:
            images: ``(images, channels, height, width)``, float32, normalized.
            see: called with a candidate and its output, and with None and the output without any.
        """
        env, places = self._begin(images), {node: index for index, node in enumerate(self._nodes)}
        starts: dict[int, list[Candidate]] = {}
        for one, swaps in self._swaps.items():
            starts.setdefault(min(places[node] for node in swaps), []).append(one)
        for index in range(len(self._nodes) - 1):
            for one in starts.get(index, ()):
                see(one, self._finish(index, dict(env), self._swaps[one]))
            self._step(index, env, {})
        see(None, self._result(env))

    def _begin(self, images: Tensor) -> dict[Node, Any]:
        image = next(node for node, tensor in zip(self._nodes, self._tensors, strict=False) if tensor is None)
        return {**self._constants, image: images}

    def _finish(self, start: int, env: dict[Node, Any], swaps: Mapping[Node, Swap]) -> Tensor:
        for index in range(start, len(self._nodes) - 1):
            self._step(index, env, swaps)
        return self._result(env)

    def _step(self, index: int, env: dict[Node, Any], swaps: Mapping[Node, Swap]) -> None:
        """Computes one node, and drops values that no later node reads."""
        node = self._nodes[index]
        if node.op != "placeholder" and node not in self._constants:
            self.env = env
            swap = swaps.get(node)
            env[node] = self.run_node(node) if swap is None else swap.compute(env[swap.reads])
        for read in self._frees.get(index, ()):
            env.pop(read, None)

    def _result(self, env: Mapping[Node, Any]) -> Tensor:
        (values,) = self._nodes[-1].args
        result: Tensor = env[values[0]]
        return result

    @torch.no_grad()
    def _computed_once(self) -> dict[Node, Any]:
        """Computes every value that does not depend on the images: parameters, and dequantized weights."""
        known: dict[Node, Any] = {
            node: tensor for node, tensor in zip(self._nodes, self._tensors, strict=False) if tensor is not None
        }
        self.env = known
        for node in self._nodes:
            if node.op == "call_function" and all(read in known for read in node.all_input_nodes):
                known[node] = self.run_node(node)
        read_by_others = {
            read for node in self._nodes if node not in known for read in node.all_input_nodes if read in known
        }
        return {node: value for node, value in known.items() if node in read_by_others or node.op == "call_function"}

    def _last_reads(self) -> dict[int, list[Node]]:
        last: dict[Node, int] = {}
        for index, node in enumerate(self._nodes):
            last.update(dict.fromkeys(node.all_input_nodes, index))
            for swaps in self._swaps.values():
                if node in swaps:
                    last[swaps[node].reads] = index
        frees: dict[int, list[Node]] = {}
        for node, index in last.items():
            if node not in self._constants:
                frees.setdefault(index, []).append(node)
        return frees


def measure_gains(mixed: MixedExecution, expected: Tensor, images: Tensor) -> dict[Candidate, float]:
    """Returns the noise power that each candidate alone removes, relative to the centred signal's; 0.001 is 30 dB.

    Args:
        mixed: the program with all candidates.
        expected: the output of the float program for the images, ``(images, …)``.
        images: ``(images, channels, height, width)``, float32, normalized; a few of them.
    """
    seen: dict[Candidate | None, Tensor] = {}
    here = count(len(mixed.candidates) + 1, unit="part")

    def see(one: Candidate | None, output: Tensor) -> None:
        seen[one] = output
        here.advance()

    mixed.one_by_one(images, see)
    quantized = seen.pop(None)
    signal = _centred_power(expected)
    return {one: _centred_power(output - quantized) / signal for one, output in seen.items() if one is not None}


def _centred_power(values: Tensor) -> float:
    """Returns the sum of squares after each element's mean over the images is removed."""
    values = values.double()
    return float((values - values.mean(0)).square().sum())
