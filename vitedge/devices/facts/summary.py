# SPDX-License-Identifier: Apache-2.0
"""Samples of a watched device become one record: spreads, energy, events, and the reasons why it was throttled."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from vitedge.devices.facts.throttling import EVENTS
from vitedge.devices.facts.watching import Sample
from vitedge.records import DeviceWatch, Spread

TOTALS: Sequence[tuple[str, ...]] = (
    ("VDD_IN",),  # Xavier NX, Orin NX, Orin Nano: the module's input
    ("POM_5V_IN",),  # Nano
    ("VIN",),  # Thor
    ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),  # AGX Orin has no rail of its input
    ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),  # AGX Xavier likewise
    ("gpu",),  # nvidia-smi
)
"""Rails whose sum is the power of the device; the first that the device has. The other rails are parts of these.

Source: https://rnext.it/jetson_stats/reference/jtop.html#jtop.jtop.power and NVIDIA's developer guides of the modules.
"""

FALL = 0.97
"""A clock whose median in the last third of the time is below this share of that in the first third has fallen."""
FEWEST = 9
"""Samples below which nothing is said of a fall."""


def record(
    samples: Sequence[Sample],
    idle: Sequence[Sample] = (),
    inferences: int = 0,
    seconds: float | None = None,
    before: Mapping[str, Any] | None = None,
) -> DeviceWatch:
    """Returns the record of a measurement.

    Args:
        samples: those of the time in which it ran.
        idle: those of a time before it, in which nothing ran; without them no energy is told.
        inferences: how many inferences ran.
        seconds: time that it took; None is the time from the first to the last sample.
        before: the device's `vitedge.devices.facts.condition.condition` before it.
    """
    span = samples[-1].time_s - samples[0].time_s if samples else 0.0
    seconds = span if seconds is None else seconds
    power, idle_power = _means(samples), _means(idle)
    rails = next((rails for rails in TOTALS if set(rails) <= set(power)), ())
    energy = None
    if rails and set(rails) <= set(idle_power):
        energy = (sum(power[rail] for rail in rails) - sum(idle_power[rail] for rail in rails)) * seconds
    events = _events(samples)
    reasons = dict.fromkeys(reason for sample in samples for reason in sample.throttled)
    reasons |= dict.fromkeys(f"{EVENTS[name]}, {count} x" for name, count in events.items())
    reasons |= dict.fromkeys((*_falls(samples), *_below(samples, before or {})))
    return DeviceWatch(
        samples=len(samples),
        seconds=seconds,
        clocks_mhz=_spreads(samples, _clocks),
        temperatures=_spreads(samples, lambda sample: sample.temperatures),
        power_w=power,
        idle_power_w=idle_power,
        rails=rails,
        energy_j=energy,
        energy_per_inference_j=energy / inferences if energy is not None and inferences else None,
        events=events,
        throttled=tuple(reasons),
    )


def _clocks(sample: Sample) -> Mapping[str, float]:
    """Returns the clocks of a sample with ``cpu``, its fastest processor."""
    cores = [clock for name, clock in sample.clocks_mhz.items() if name.startswith(("cpu", "arm"))]
    return {**sample.clocks_mhz, **({"cpu": max(cores)} if cores else {})}


def _series(samples: Sequence[Sample], part: Callable[[Sample], Mapping[str, float]]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for sample in samples:
        for name, value in part(sample).items():
            found.setdefault(name, []).append(value)
    return found


def _spreads(samples: Sequence[Sample], part: Callable[[Sample], Mapping[str, float]]) -> dict[str, Spread]:
    return {
        name: Spread(min(values), statistics.median(values), max(values))
        for name, values in _series(samples, part).items()
    }


def _means(samples: Sequence[Sample]) -> dict[str, float]:
    return {name: statistics.fmean(values) for name, values in _series(samples, lambda one: one.power_w).items()}


def _events(samples: Sequence[Sample]) -> dict[str, int]:
    """Returns by how much each counter rose."""
    found: dict[str, int] = {}
    last: dict[str, int] = {}
    for sample in samples:
        for name, count in sample.events.items():
            found[name] = found.get(name, 0) + max(0, count - last.get(name, count))
            last[name] = count
    return {name: rise for name, rise in found.items() if rise}


def _falls(samples: Sequence[Sample]) -> Iterator[str]:
    """Yields a reason for each clock that fell, and for each limit of a clock that was lowered."""
    clocks = _series(samples, _clocks)
    for name in ("cpu", "gpu"):
        values = clocks.get(name, [])
        third = len(values) // 3
        if len(values) >= FEWEST:
            first, last = statistics.median(values[:third]), statistics.median(values[-third:])
            if last < FALL * first:
                yield f"the {name} clock fell from {first:.0f} to {last:.0f} MHz"
    for name, values in _series(samples, lambda sample: sample.limits_mhz).items():
        if values[-1] < FALL * values[0]:
            yield f"the largest clock of {name} was lowered from {values[0]:.0f} to {values[-1]:.0f} MHz"


def _below(samples: Sequence[Sample], before: Mapping[str, Any]) -> Iterator[str]:
    """Yields a reason where clocks that were locked before were not held."""
    spreads = _spreads(samples, _clocks)
    locked = before.get("clocks_locked") is True
    told = {"cpu": max(before.get("clocks_max_mhz") or [0]), "gpu": before.get("gpu_clock_max_mhz") or 0}
    for name, clock in told.items():
        if locked and name in spreads and spreads[name].median < FALL * clock:
            yield f"the {name} clock was {spreads[name].median:.0f} MHz, below the {clock} MHz that it was locked at"
