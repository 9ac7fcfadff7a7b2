# SPDX-License-Identifier: Apache-2.0
"""The state of a device over a measurement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Spread:
    """The values of one quantity over a measurement."""

    minimum: float
    median: float
    maximum: float


@dataclass(frozen=True)
class DeviceWatch:
    """What was read from a device while something was measured on it."""

    samples: int
    """Number of readings."""
    seconds: float
    """Time that the readings cover."""
    clocks_mhz: Mapping[str, Spread] = field(default_factory=dict)
    """Processor, GPU and memory to their clocks."""
    temperatures: Mapping[str, Spread] = field(default_factory=dict)
    """Sensor to degrees Celsius."""
    power_w: Mapping[str, float] = field(default_factory=dict)
    """Rail to its mean power in watts."""
    idle_power_w: Mapping[str, float] = field(default_factory=dict)
    """Rail to its mean power in watts before the measurement, with nothing running."""
    rails: tuple[str, ...] = ()
    """The rails whose sum is the power of the device, or of its GPU where nothing else is told; empty where none is."""
    energy_j: float | None = None
    """Mean power less that at idle, of those rails, times the seconds; None where power or idle power is not known."""
    energy_per_inference_j: float | None = None
    events: Mapping[str, int] = field(default_factory=dict)
    """Kind of event to how often it happened, such as over-current."""
    throttled: tuple[str, ...] = ()
    """Reasons why the device ran slower than it can; empty where none was seen."""
