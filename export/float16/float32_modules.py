# SPDX-License-Identifier: Apache-2.0
"""Selection of the modules of a program that stay in float32 when it is lowered to half precision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vitedge.export.float16.noise import find_noisy
from vitedge.export.float16.ranges import find_overflowing
from vitedge.program.modules import execution_order
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


def find_float32_modules(
    program: Program,
    images: npt.NDArray[np.uint8],
    outputs: Mapping[str, npt.NDArray[np.float32]],
    sqnr_db: float | None,
) -> Float32Modules:
    """Finds the modules whose values float16 cannot hold, and those whose rounding would cost too much.

    Args:
        program: the captured reference.
        images: ``(images, channels, height, width)``, RGB, 0 to 255; a few of them are watched.
        outputs: what the reference computed for all of them, by name.
        sqnr_db: the centred SQNR in dB that the lowered program has to reach; None looks at ranges only.
    """
    few = images[sample(len(images))]
    watched = as_input(few, program.inputs[0], program.spec)
    large = find_overflowing(program, watched)
    expected: list[npt.NDArray[Any]] = [outputs[spec.name] for spec in program.outputs]
    noisy = () if sqnr_db is None else find_noisy(program, watched, expected, sqnr_db, already=large)
    if not noisy:
        return Float32Modules(large)
    count = len(execution_order(program))
    note = f"{len(noisy)} of {count} modules stay in float32 so that half precision holds {sqnr_db:g} dB"
    return Float32Modules(large + noisy, (note,))


def sample(count: int) -> list[int]:
    """Returns the numbers of a few of so many images, spread evenly: those that follow one another may be alike."""
    return [round(number) for number in np.linspace(0, count - 1, min(_IMAGES, count)).tolist()]
