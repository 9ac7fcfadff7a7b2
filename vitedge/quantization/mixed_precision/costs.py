# SPDX-License-Identifier: Apache-2.0
"""The cost of each layer at each scheme, from the times of the kernels that it becomes.

Nodes of an exported graph are named after the modules of the reference, and a runtime keeps the beginning of a name
where it fuses nodes, so that the time of a kernel can be booked to a layer. Who measures the kernels, and on which
device, is for the caller to say.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from vitedge.program.program import Program

KernelTimes = Callable[[Program], Mapping[str, float]]
"""Measures a program with a batch of 1: kernel to the microseconds that it takes of one inference.

It raises `MissingBackend`, `BadRecipe` or `DeviceFailed` where the program cannot be measured.
"""


@dataclass(frozen=True)
class Costs:
    """Times of one inference of one image, in microseconds."""

    total: float
    """Of all kernels of the program that everything starts from."""
    extra: Mapping[tuple[str, str], float]
    """Part and scheme to what it takes more than it took at the start; below 0 where it is quicker."""


def measure_costs(
    start: Program,
    levels: Mapping[str, Callable[[], Program]],
    parts: Collection[str],
    kernel_times: KernelTimes,
) -> Costs:
    """Measures a program, and the same program with every part at another scheme.

    Args:
        start: with a batch of 1.
        levels: scheme to what makes the program in which the parts have that scheme.
        parts: layers and attentions.
        kernel_times: measures a program; what it raises is passed on.
    """
    times = _booked(kernel_times(start), parts)
    extra: dict[tuple[str, str], float] = {}
    for scheme, make in levels.items():
        for part, spent in _booked(kernel_times(make()), parts).items():
            extra[part, scheme] = spent - times.get(part, 0.0)
    return Costs(sum(times.values()), extra)


def owner(kernel: str, parts: Collection[str]) -> str:
    """Returns the innermost part that a kernel belongs to, or nothing."""
    module, found, _ = kernel.partition("/")
    return module if found and module in parts else ""


def _booked(kernels: Mapping[str, float], parts: Collection[str]) -> dict[str, float]:
    """Part to the microseconds of its kernels; all others are summed under the empty name."""
    spent: dict[str, float] = defaultdict(float)
    for kernel, microseconds in kernels.items():
        spent[owner(kernel, parts)] += microseconds
    return dict(spent)
