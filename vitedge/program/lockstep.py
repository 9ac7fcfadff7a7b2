# SPDX-License-Identifier: Apache-2.0
"""Running an exported program over many images, a stretch of its nodes for all of them before the next stretch.

The images go in parts that fit into a processor's cache, which takes a fraction of the time of one large batch. What
does not depend on the images, such as dequantized weights, is computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Node

from vitedge.program.cores import Map, one_core_each
from vitedge.program.execution import Execution, channels_last

PART = 2
"""Images of a part."""
PartsWatch = Callable[[list[Tensor]], list[Tensor] | None]
"""Is called with the parts of a node's value, and may return others in their place."""
_STRETCH_BYTES = 64 * 2**20
"""Bytes of computed weights after which a stretch ends."""
Values = dict[Node, Any]


class Lockstep(Execution):
    """A program with a dynamic batch, run over all of its images at once."""

    def __init__(self, exported: ExportedProgram, watches: Mapping[str, PartsWatch] | None = None) -> None:
        """Watches are called by the name of the node that they watch, which depends on the images."""
        super().__init__(exported, dict.fromkeys(watches or {}, _untouched))
        self._parts_watches = watches or {}
        self._nodes = tuple(exported.graph.nodes)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """Computes the outputs for all images, ``(images, …)`` each."""
        fixed: Values = {}
        inputs = [node for node in self._nodes if node.op == "placeholder"]
        parts: list[Values] = [{} for _ in range(0, len(images), PART)]
        for node, tensor in zip(inputs, self._tensors, strict=True):
            if tensor is not None:
                fixed[node] = tensor
                continue
            for values, part in zip(parts, torch.split(images, PART), strict=True):
                values[node] = channels_last(part)
        with one_core_each() as over:
            for stretch in self._stretches(fixed):
                self._run(stretch, fixed, parts, over)
        (outputs,) = self._nodes[-1].args
        return tuple(torch.cat([values[output] for values in parts]) for output in outputs)

    def _stretches(self, fixed: Values) -> Iterator[list[Node]]:
        """Yields the nodes that depend on the images, up to the next watch each; computes the others into ``fixed``."""
        stretch: list[Node] = []
        computed: list[Node] = []  # what they read is freed when the stretch has run, which may read it too
        taken = 0
        for node in self._nodes:
            if node.op != "call_function":
                continue
            if all(read in fixed for read in node.all_input_nodes):
                fixed[node] = self.compute(node, fixed)
                taken += fixed[node].nbytes if isinstance(fixed[node], Tensor) else 0
                computed.append(node)
                continue
            stretch.append(node)
            if node.name in self._parts_watches or taken > _STRETCH_BYTES:
                yield stretch
                for one in computed:
                    self._free(one, fixed)
                stretch, computed, taken = [], [], 0
        yield stretch

    def _run(self, stretch: list[Node], fixed: Values, parts: list[Values], over: Map) -> None:
        over(partial(self._run_part, stretch, fixed), parts)
        for node in stretch:
            self._free(node, fixed)
        last = stretch[-1].name if stretch else ""
        watch = self._parts_watches.get(last)
        instead = watch([values[stretch[-1]] for values in parts]) if watch is not None else None
        for values, value in zip(parts, instead or (), strict=False):
            values[stretch[-1]] = value

    def _run_part(self, stretch: list[Node], fixed: Values, values: Values) -> None:
        for node in stretch:
            read = {read: values[read] if read in values else fixed[read] for read in node.all_input_nodes}
            values[node] = self.compute(node, read)
            self._free(node, values)

    def _free(self, node: Node, values: Values) -> None:
        for read in self.user_to_last_uses.get(node, ()):
            values.pop(read, None)


def _untouched(_value: Tensor) -> None:
    """Watches nothing: it only keeps the watched nodes from being fused."""
