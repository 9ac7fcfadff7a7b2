# SPDX-License-Identifier: Apache-2.0
"""Computes a captured program and returns the values of single nodes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Interpreter, Node
from torch.fx.node import map_aggregate

from vitedge.export.coreml.expected_weights import fold
from vitedge.program.attention import attention_scale
from vitedge.program.batch_norm import folds_into
from vitedge.program.constants import constant_values, parameters

_ATTENTION = torch.ops.aten.scaled_dot_product_attention.default


@dataclass(frozen=True)
class ReferenceRounding:
    """The constants that a package stores in float16; the reference rounds them too, so that it counts as no error."""

    weights: frozenset[str] = frozenset()
    """Nodes that hold a weight."""
    folded: frozenset[str] = frozenset()
    """Batch normalizations that are folded into their convolution."""
    numbers: Mapping[str, frozenset[float]] = field(default_factory=dict)
    """Node to the float16 values that its scalar arguments, such as the scale of an attention, may be rounded to."""


class ReferenceValues(Interpreter):
    """Computes the reference's graph with its constants rounded as the package's are; keeps the values asked for."""

    def __init__(self, exported: ExportedProgram, rounding: ReferenceRounding) -> None:
        """Prepares the computation of a decomposed program."""
        super().__init__(exported.graph_module)
        self._parameters = parameters(exported)
        self._rounding = rounding
        self._convolutions: dict[str, tuple[Tensor, Tensor]] = {}
        self._normalizations: set[str] = set()
        values = constant_values(exported)
        for node in exported.graph.nodes:
            convolution = folds_into(node)
            if convolution is not None and node.name in rounding.folded:
                weight, bias = fold(node, values)
                self._convolutions[convolution.name] = (
                    _halve(torch.from_numpy(weight)),
                    _halve(torch.from_numpy(bias)),
                )
                self._normalizations.add(node.name)
        self._wanted: frozenset[str] = frozenset()
        self._found: dict[str, Tensor] = {}

    def compute(self, image: Tensor, wanted: Collection[str]) -> dict[str, Tensor]:
        """Returns the values of nodes by name; of a node that returns several tensors, the first.

        Args:
            image: ``float32``, of the shape that the program takes.
            wanted: names of nodes.
        """
        self._wanted, self._found = frozenset(wanted), {}
        names = [node.name for node in self.module.graph.nodes if node.op == "placeholder"]  # type: ignore[union-attr]
        with torch.inference_mode():
            self.run(*(self._parameters.get(name, image) for name in names))
        return self._found

    def run_node(self, n: Node) -> Any:
        """Computes one node as PyTorch does, with rounded constants."""
        value = self._rounded(n)
        if n.name in self._wanted:
            self._found[n.name] = value[0] if isinstance(value, (tuple, list)) else value
        return value

    def _rounded(self, node: Node) -> Any:
        if node.name in self._convolutions:
            inputs, _ = self.fetch_args_kwargs_from_env(node)
            return node.target(inputs[0], *self._convolutions[node.name], *inputs[3:])  # type: ignore[operator]
        if node.name in self._normalizations:
            return (self.fetch_args_kwargs_from_env(node)[0][0],)  # its convolution did it already
        numbers = self._rounding.numbers.get(node.name)
        value = self._with_numbers(node, numbers) if numbers else super().run_node(node)
        return _halve(value) if node.name in self._rounding.weights else value

    def _with_numbers(self, node: Node, numbers: frozenset[float]) -> Any:
        """Computes a node; scalar arguments that the package has among its ``numbers`` are rounded to float16."""
        inputs, options = self.fetch_args_kwargs_from_env(node)
        if node.target is _ATTENTION:
            # The scale that it has by default, written out.
            options = {"scale": attention_scale(inputs[0].shape[-1]), **options}

        def rounded(argument: Any) -> Any:
            half = float(np.float16(argument)) if isinstance(argument, float) else None
            return half if half in numbers else argument

        return node.target(*map_aggregate(inputs, rounded), **map_aggregate(options, rounded))  # type: ignore


def _halve(tensor: Tensor) -> Tensor:
    return tensor.half().float()
