# SPDX-License-Identifier: Apache-2.0
"""One line of NVIDIA's tegrastats, as JetPack 4 to 7 write it, in plain values.

The format: https://docs.nvidia.com/jetson/archives/r36.3/DeveloperGuide/AT/JetsonLinuxDevelopmentTools/TegrastatsUtility.html.
What differs: temperatures' and rails' names are the module's; JetPack 4 writes power without a unit; Thor writes a
clock for each of its GPU's parts, and temperature and power with an average and a peak behind them. The present value
is the first everywhere.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from vitedge.devices.facts.condition import is_temperature

_CPU = re.compile(r"\bcpu \[([^\]]*)\](?:@(\d+))?", re.IGNORECASE)
_CORE = re.compile(r"(\d+)%(?:@(\d+))?")
_ENGINE = re.compile(r"\b(GR3D|EMC)(?:_FREQ)? (?:(\d+)%)?(?:@(\d+|\[[^\]]*\]))?")
_TEMPERATURE = re.compile(r"(\w[\w-]*)@(-?\d+(?:\.\d+)?)C\b")
_POWER = re.compile(r"\b([A-Za-z]\w*) (-?\d+)(mW)?((?:/-?\d+(?:mW)?)*)(?![\w/])")
_RAM = re.compile(r"\bRAM (\d+)/(\d+)MB")

_NAMES = {"GR3D": "gpu", "EMC": "memory"}


@dataclass(frozen=True)
class Line:
    """What one line says. Parts that are off are left out."""

    clocks_mhz: dict[str, float] = field(default_factory=dict)
    """Clocks of ``cpu`` (the fastest processor), ``gpu`` (its fastest part) and ``memory``."""
    loads: dict[str, float] = field(default_factory=dict)
    """Share of the time in percent that ``cpu`` (mean of the processors), ``gpu`` and ``memory`` are busy."""
    temperatures: dict[str, float] = field(default_factory=dict)
    power_w: dict[str, float] = field(default_factory=dict)
    """Name of the rail to its power."""
    memory_used_mb: float | None = None

    def __bool__(self) -> bool:
        return bool(self.clocks_mhz or self.loads or self.temperatures or self.power_w)


def parsed(text: str) -> Line:
    """Returns what a line says; parts that are not understood are left out."""
    line = Line(memory_used_mb=_memory(text))
    _processors(line, text)
    for name, load, clocks in _ENGINE.findall(text):
        if load:
            line.loads[_NAMES[name]] = float(load[:9])
        found = [float(clock[:9]) for clock in re.findall(r"\d+", clocks)]
        if max(found, default=0) > 0:
            line.clocks_mhz[_NAMES[name]] = max(found)
    for name, value in _TEMPERATURE.findall(text):
        if is_temperature(float(value[:12])):
            line.temperatures[name] = float(value[:12])
    for name, value, unit, averages in _POWER.findall(text):
        if (unit or averages) and name != "NC":  # a channel that is not connected
            line.power_w[name] = float(value[:12]) / 1000
    return line


def _processors(line: Line, text: str) -> None:
    cpu = _CPU.search(text)
    cores = _CORE.findall(cpu[1]) if cpu else []
    if cpu and cores:
        line.loads["cpu"] = sum(float(load[:9]) for load, _ in cores) / len(cores)
        clock = max(float((clock or cpu[2] or "0")[:9]) for _, clock in cores)
        if clock > 0:
            line.clocks_mhz["cpu"] = clock


def _memory(text: str) -> float | None:
    found = _RAM.search(text)
    return float(found[1][:12]) if found else None
