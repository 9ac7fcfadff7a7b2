# SPDX-License-Identifier: Apache-2.0
"""The cost of a model, counted from its spec: nothing is allocated and nothing is computed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from vitedge.checkpoints.families.family import State
from vitedge.models.records import Cost
from vitedge.models.reference import check_fit, skeleton
from vitedge.records import ModelSpec

_FLOAT32_BYTES = 4


def cost(spec: ModelSpec, state: State, source: str) -> Cost:
    """Counts parameters, and multiply-accumulates and activations of one image, on torch's meta device.

    Args:
        spec: the model.
        state: the checkpoint's weights; only their names and shapes are looked at.
        source: the checkpoint's name, for the error.

    Raises:
        WeightsMismatch: the weights do not fit the spec, so that there is no such model.
    """
    module = skeleton(spec).requires_grad_(requires_grad=False)
    check_fit(module, state, source)
    image = torch.empty((1, spec.in_channels, *spec.image_size), device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter, _activation_sizes(module) as sizes:
        module(image)
    return Cost(
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        gmacs=counter.get_total_flops() / 2e9,
        activations_mb=sum(sizes) * _FLOAT32_BYTES / 1e6,
    )


@torch.no_grad()
def count_gmacs(spec: ModelSpec, module: nn.Module | None = None) -> float:
    """Counts the multiply-accumulates of one image, in 10^9, on torch's meta device.

    Args:
        spec: the model.
        module: on the meta device, where it is another than the spec builds.
    """
    counted = (module or skeleton(spec)).requires_grad_(requires_grad=False)
    with FlopCounterMode(display=False) as counter:
        counted(torch.empty((1, spec.in_channels, *spec.image_size), device="meta"))
    return float(counter.get_total_flops()) / 2e9


@contextmanager
def _activation_sizes(module: nn.Module) -> Iterator[list[int]]:
    """Yields a list to which every leaf module that is executed within the block appends its output's elements."""
    sizes: list[int] = []

    def count(_module: nn.Module, _inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            sizes.append(output.numel())

    leaves = [part for part in module.modules() if not any(True for _ in part.children())]
    handles = [leaf.register_forward_hook(count) for leaf in leaves if not isinstance(leaf, nn.Identity)]
    try:
        yield sizes
    finally:
        for handle in handles:
            handle.remove()
