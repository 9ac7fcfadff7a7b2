# SPDX-License-Identifier: Apache-2.0
"""The table of the steps, in the order in which they are applied."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from vitedge.calibration.observations import Stats
from vitedge.program.structure import Structure
from vitedge.quantization.records import StepRecord
from vitedge.quantization.steps import (
    head_rotation,
    query_equalization,
    residual_rotation,
    shift,
    smoothing,
    value_equalization,
)
from vitedge.quantization.steps.rounding_error import Precision

Step = Callable[[Structure, dict[str, Stats], Precision], tuple[StepRecord, ...]]

STEPS: Mapping[str, Step] = MappingProxyType(
    {
        "residual-rotation": residual_rotation.apply,
        "smoothing": smoothing.apply,
        "head-rotation": head_rotation.apply,
        "value-equalization": value_equalization.apply,
        "query-equalization": query_equalization.apply,
        "shift": shift.apply,
    }
)
"""Name to step. A rotation mixes channels that smoothing and equalization then scale one by one.

A recipe has the rotations off by default: after smoothing they gain little, and the extremes of rotated values are only
estimated from a sample."""
