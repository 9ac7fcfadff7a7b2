# SPDX-License-Identifier: Apache-2.0
"""The time that each layer takes at each scheme, from the times of its kernels.

Nodes of an exported graph are named after the modules of the reference, and a runtime keeps the beginning of a name
where it fuses nodes, so that the time of a kernel can be assigned to a layer. The caller supplies the measurement of
the kernels and the device.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from vitedge.program.program import Program

KernelTimes = Callable[[Program], Mapping[str, float]]
"""Measures a program with a batch of 1 and returns kernel to its microseconds in one inference.

It raises `MissingBackend`, `BadRecipe` or `DeviceFailed` where the program cannot be measured.
"""


@dataclass(frozen=True)
class Costs:
    """Times of one inference of one image, in microseconds."""

    total: float
    """Time of all kernels of the program that the search starts from."""
    extra: Mapping[tuple[str, str], float]
    """Part and scheme to the time that it takes more than at the start; negative where it is faster."""


def measure_costs(
    start: Program,
    levels: Mapping[str, Callable[[], Program]],
    parts: Collection[str],
    kernel_times: KernelTimes,
) -> Costs:
    """Measures a program, and the same program with every part at another scheme.

    Args:
        start: the program that the search starts from, with a batch of 1.
        levels: scheme to a function that makes the program in which the parts have that scheme.
        parts: names of layers and attentions.
        kernel_times: measures a program; its errors are passed on.
    """
    times = _times_of_parts(kernel_times(start), parts)
    extra: dict[tuple[str, str], float] = {}
    for scheme, make in levels.items():
        for part, time in _times_of_parts(kernel_times(make()), parts).items():
            extra[part, scheme] = time - times.get(part, 0.0)
    return Costs(sum(times.values()), extra)


def owner(kernel: str, parts: Collection[str]) -> str:
    """Returns the innermost part that a kernel belongs to; empty where it belongs to none."""
    module, found, _ = kernel.partition("/")
    return module if found and module in parts else ""


def _times_of_parts(kernels: Mapping[str, float], parts: Collection[str]) -> dict[str, float]:
    """Returns part to the microseconds of its kernels; all other kernels are summed under the empty name."""
    times: dict[str, float] = defaultdict(float)
    for kernel, microseconds in kernels.items():
        times[owner(kernel, parts)] += microseconds
    return dict(times)
