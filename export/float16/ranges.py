# SPDX-License-Identifier: Apache-2.0
"""Modules that have to stay in float32 because float16 cannot hold the values that they compute.

A captured program is run in float32 over sample images, and every operator's inputs, output and known inner results
(`vitedge.program.float16`) are compared with the largest number of float16.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch.fx import Interpreter, Node

from vitedge.program.execution import arguments
from vitedge.program.float16 import (
    FLOAT16_MAX,
    SAFETY,
    SMALLEST_NORMAL,
    attention_scores,
    magnitude,
    sum_of_magnitudes,
    sum_of_squared_deviations,
    tanh_gelu_cube,
)
from vitedge.program.modules import execution_order, innermost_module
from vitedge.program.program import Program
from vitedge.runtimes.feeding import batches

WEIGHT_ERROR = 1e-2
"""Largest relative error that rounding to float16, subnormal numbers flushed to zero, may make in a weight."""


def find_overflowing(program: Program, images: torch.Tensor | np.ndarray[Any, Any]) -> tuple[str, ...]:
    """Finds the modules that need float32.

    Args:
        program: what `vitedge.program.capture.capture` returned.
        images: ``(images, channels, height, width)``, as the program takes them.

    Returns:
        Names of innermost modules, in order of execution.
    """
    limit = FLOAT16_MAX / SAFETY
    large = {module for module, magnitude in measure_ranges(program, images).items() if not magnitude <= limit}
    fragile = set(_fragile_weights(program))
    return tuple(module for module in execution_order(program) if module in large | fragile)


def measure_ranges(program: Program, images: torch.Tensor | np.ndarray[Any, Any]) -> Mapping[str, float]:
    """Returns for every innermost module the largest magnitude among its inputs, inner results and outputs."""
    samples = torch.from_numpy(images) if isinstance(images, np.ndarray) else images
    interpreter = _Ranges(program)
    for batch in batches(samples, program.inputs[0].shape[0]):
        with torch.no_grad():
            interpreter.run(*arguments(program, batch))
    return interpreter.ranges


class _Ranges(Interpreter):
    """Runs a program and keeps the largest magnitude of each module."""

    def __init__(self, program: Program) -> None:
        super().__init__(program.exported.graph_module)
        self.ranges: dict[str, float] = {}

    def run_node(self, n: Node) -> Any:
        if n.op != "call_function":
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        # Before the node runs: some operators work in place.
        seen = [_magnitude(args), _internal(n.target, args, kwargs)]
        result = super().run_node(n)
        module = innermost_module(n)
        self.ranges[module] = max(self.ranges.get(module, 0.0), *seen, _magnitude(result))
        return result


def _magnitude(value: Any) -> float:
    """Returns the largest magnitude of a float tensor, or of all in a sequence; NaN counts as infinite."""
    if isinstance(value, (tuple, list)):
        return max((_magnitude(entry) for entry in value), default=0.0)
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        return 0.0
    return _infinite_if_nan(magnitude(value))


def _infinite_if_nan(size: float) -> float:
    return math.inf if math.isnan(size) else size


def _internal(target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> float:
    """Returns the largest inner result of an operator that is more than one multiplication or sum."""
    rule = _INTERNAL.get(target)
    return 0.0 if rule is None else _infinite_if_nan(rule(args, kwargs))


def _layer_norm(args: tuple[Any, ...], _: Mapping[str, Any]) -> float:
    return sum_of_squared_deviations(args[0], range(-len(args[1]), 0))


def _group_norm(args: tuple[Any, ...], _: Mapping[str, Any]) -> float:
    return sum_of_squared_deviations(args[0].reshape(len(args[0]), args[1], -1), (-1,))


def _attention(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> float:
    return attention_scores(args[0], args[1], kwargs.get("scale"))


def _gelu(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> float:
    return tanh_gelu_cube(args[0]) if kwargs.get("approximate") == "tanh" else 0.0


def _reduction(args: tuple[Any, ...], _: Mapping[str, Any]) -> float:
    return sum_of_magnitudes(args[0], args[1] or range(args[0].ndim))


_ATEN = torch.ops.aten
_INTERNAL: dict[Any, Callable[[tuple[Any, ...], Mapping[str, Any]], float]] = {
    _ATEN.layer_norm.default: _layer_norm,
    _ATEN.group_norm.default: _group_norm,
    _ATEN.scaled_dot_product_attention.default: _attention,
    _ATEN.gelu.default: _gelu,
    _ATEN.mean.dim: _reduction,
    _ATEN.sum.dim_IntList: _reduction,
}


def _fragile_weights(program: Program) -> list[str]:
    """Returns the modules with a weight that overflows in float16 or loses more than `WEIGHT_ERROR` there."""
    exported = program.exported
    signature = {**exported.graph_signature.inputs_to_parameters, **exported.graph_signature.inputs_to_buffers}
    tensors = {**exported.constants, **exported.state_dict}
    return [
        innermost_module(reader)
        for node in exported.graph.nodes
        if node.op == "placeholder" and node.name in signature and not _fits(tensors[signature[node.name]])
        for reader in node.users
    ]


def _fits(weight: torch.Tensor) -> bool:
    if not weight.is_floating_point() or not weight.numel():
        return True
    exact = weight.detach().float()
    rounded = exact.half().float()
    flushed = torch.where(rounded.abs() < SMALLEST_NORMAL, 0.0, rounded)
    return bool((flushed - exact).norm() <= WEIGHT_ERROR * exact.norm())
