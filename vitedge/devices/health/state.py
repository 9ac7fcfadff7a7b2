# SPDX-License-Identifier: Apache-2.0
"""Remarks on how a device is: what makes it slower than it can be, and what it has too little of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from vitedge.devices.health.records import Remark

ROOM_MB = 200
"""Free space below which vitedge's cache and its temporary files have no room for a model."""
MEMORY_MB = 400
"""Free memory below which a model may be killed."""
HOT = 85.0
"""Degrees Celsius from which boards throttle."""
_SLOW_GOVERNORS = ("powersave", "conservative")
_OWN_SCALING = ("intel_pstate", "amd-pstate", "amd-pstate-epp")
"""Drivers whose usual governor is called powersave too, and raises the clocks all the same."""
_SCALING = "for f in /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor; do echo performance | sudo tee $f; done"
_LARGEST_MODE = "MAXN"


def remarks(condition: Mapping[str, Any], room: Mapping[str, Any]) -> tuple[Remark, ...]:
    """Returns remarks on the state of a device.

    Args:
        condition: of `vitedge.devices.facts.condition.condition`.
        room: what the trial ``room`` told; empty where it was not tried.
    """
    return (*_clocks(condition), *_heat(condition), *_memory(room))


def crowded(room: Mapping[str, Any]) -> tuple[str, str]:
    """Returns what has no room, and what mends it; empty where there is enough."""
    for name, free in room.get("free_mb", {}).items():
        if free < ROOM_MB:
            place = room["folders"][name]
            return f"{free} MB are free for the {name} in {place}", f"free some space in {place}"
    return "", ""


def _clocks(condition: Mapping[str, Any]) -> Iterator[Remark]:
    slow = [name for name in _SLOW_GOVERNORS if name in condition.get("governor", "")]
    if slow and condition.get("scaling_driver") not in _OWN_SCALING:
        yield Remark(f"the governor {slow[0]} keeps the clocks low", _SCALING)
    mode = condition.get("power_mode", "")
    if mode and not mode.upper().startswith(_LARGEST_MODE):
        yield Remark(
            f"the power mode {mode} is not the largest",
            f"sudo nvpmodel -m N, with the ID of {_LARGEST_MODE} in: grep ID= /etc/nvpmodel.conf",
        )


def _heat(condition: Mapping[str, Any]) -> Iterator[Remark]:
    for reason in condition.get("throttled", []):
        yield Remark(f"it is throttled now: {reason}", "let it cool, or give it a fan and a stronger supply")
    hot = {name: value for name, value in condition.get("temperatures", {}).items() if value >= HOT}
    for name, value in sorted(hot.items(), key=lambda pair: -pair[1])[:1]:
        yield Remark(f"{name} is {value:.0f} degrees hot", "let it cool before anything is measured")


def _memory(room: Mapping[str, Any]) -> Iterator[Remark]:
    free = room.get("memory_mb")
    if free is not None and free < MEMORY_MB:
        yield Remark(f"{free} MB of memory are free", "end other programs, or a model may be killed")
