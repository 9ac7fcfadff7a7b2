# SPDX-License-Identifier: Apache-2.0
"""Selection of the modules of a program that stay in float32 when it is lowered to half precision."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from vitedge.export.float16.noise import Noise, choose_noisy, predict_noise
from vitedge.export.float16.ranges import find_overflowing
from vitedge.program.modules import execution_order, innermost_module
from vitedge.program.program import Program
from vitedge.runtimes.feeding import as_input

_IMAGES = 4
"""Images over which the ranges and the rounding noise of half-precision values are watched."""


@dataclass(frozen=True)
class Float32Modules:
    """Modules that stay in float32, and notes on them."""

    modules: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """Notes on them for the user, one phrase each."""


class HalfPrecision:
    """What half precision does to the values of a program: watched once, asked for any tolerance.

    Args:
        program: the captured reference.
        images: ``(images, channels, height, width)``, RGB, 0 to 255; a few of them are watched.
        outputs: what the reference computed for all of them, by name.
    """

    def __init__(
        self, program: Program, images: npt.NDArray[np.uint8], outputs: Mapping[str, npt.NDArray[np.float32]]
    ) -> None:
        self._program = program
        self._watched = as_input(images[sample(len(images))], program.inputs[0], program.spec)
        self._expected: list[npt.NDArray[Any]] = [outputs[spec.name] for spec in program.outputs]

    def float32_modules(self, sqnr_db: float | None) -> Float32Modules:
        """Returns the modules whose values float16 cannot hold, and those whose rounding would cost too much.

        Args:
            sqnr_db: the centred SQNR in dB that the lowered program has to reach; None looks at ranges only.
        """
        large = self._overflowing
        noisy = () if sqnr_db is None else choose_noisy(self._program, self._noise, sqnr_db, already=large)
        if not noisy:
            return Float32Modules(large)
        count = len(execution_order(self._program))
        note = f"{len(noisy)} of {count} modules stay in float32 so that half precision holds {sqnr_db:g} dB"
        return Float32Modules(large + noisy, (note,))

    @cached_property
    def _overflowing(self) -> tuple[str, ...]:
        return find_overflowing(self._program, self._watched)

    @cached_property
    def _noise(self) -> tuple[Noise, ...]:
        return predict_noise(self._program, self._watched, self._expected)


def half_share(program: Program, float32_modules: Collection[str]) -> float:
    """Returns the share of a program's floating-point weights that half precision narrows, 0 to 1, by elements.

    Args:
        program: the captured reference.
        float32_modules: modules whose weights stay in float32.
    """
    narrowed = total = 0
    parameters = program.exported.graph_signature.inputs_to_parameters
    for node in program.exported.graph.nodes:
        value = node.meta.get("val")
        if node.name not in parameters or not value.is_floating_point():
            continue
        total += value.numel()
        if not all(innermost_module(user) in float32_modules for user in node.users):
            narrowed += value.numel()
    return narrowed / total if total else 1.0


def sample(count: int) -> list[int]:
    """Returns the numbers of a few of so many images, spread evenly: those that follow one another may be alike."""
    return [round(number) for number in np.linspace(0, count - 1, min(_IMAGES, count)).tolist()]
