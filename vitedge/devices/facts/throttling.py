# SPDX-License-Identifier: Apache-2.0
"""Why a device runs slower than it can: what firmware, drivers and kernels say in bits, levels and counters, in words.

Sources: Raspberry Pi: https://www.raspberrypi.com/documentation/computers/os.html#get_throttled; NVIDIA:
https://docs.nvidia.com/deploy/nvml-api/group__nvmlClocksEventReasons.html; Android: PowerManager.THERMAL_STATUS of
https://developer.android.com/reference/android/os/PowerManager; macOS: https://github.com/angristan/MacThrottle;
Jetson: https://docs.nvidia.com/jetson/archives/r36.3/DeveloperGuide/SD/PlatformPowerAndPerformance.html.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

PI: Mapping[int, str] = {
    0: "under-voltage of the supply",
    1: "the firmware caps the clock",
    2: "the firmware throttles the clock",
    3: "the soft temperature limit is reached",
}
"""Bit of ``get_throttled`` to the reason; 16 bits higher it says that it was so since the start of the system."""

GPU: Mapping[int, str] = {
    0x04: "the GPU is at its power limit",
    0x08: "the GPU's hardware slows its clock down",
    0x20: "the driver slows the GPU down by its temperature",
    0x40: "the hardware slows the GPU down by its temperature",
    0x80: "the supply asks the GPU to slow down",
}
"""Bit of ``clocks_event_reasons.active`` to the reason. The others are no fault: idle, clocks that were asked for."""

ANDROID = ("", "light", "moderate", "severe", "critical", "emergency", "shutdown")
MACOS = ("", "moderate", "heavy", "trapping", "sleeping")

EVENTS: Mapping[str, str] = {
    "oc1_event_cnt": "under-voltage (OC1)",
    "oc2_event_cnt": "average over-current (OC2)",
    "oc3_event_cnt": "instantaneous over-current (OC3)",
    "core_throttle_count": "a core throttled by its temperature",
    "package_throttle_count": "the processor throttled by its temperature",
}
"""Counter of sysfs to the event that it counts."""

_SLOWING = re.compile(r"throttle-alert|cpufreq|devfreq|^processor$", re.IGNORECASE)


def of_pi(text: str) -> tuple[list[str], list[str]]:
    """Returns the reasons that hold now and those that held before, of what ``get_throttled`` printed or sysfs has."""
    found = re.search(r"(?:^|=|\s)(?:0x)?([0-9a-fA-F]{1,8})\s*$", text)
    bits = int(found[1], 16) if found else 0
    now = [reason for bit, reason in PI.items() if bits >> bit & 1]
    return now, [reason for bit, reason in PI.items() if bits >> (bit + 16) & 1 and reason not in now]


def of_gpu(text: str) -> list[str]:
    """Returns the reasons that a bit mask such as ``0x0000000000000004`` names."""
    found = re.search(r"0x([0-9a-fA-F]{1,16})\b", text)
    bits = int(found[1], 16) if found else 0
    return [reason for bit, reason in GPU.items() if bits & bit]


def of_android(text: str) -> list[str]:
    """Returns the reason that ``dumpsys thermalservice`` has."""
    return _level(re.search(r"Thermal Status: (\d)\b", text), ANDROID, "Android's thermal status")


def of_macos(pressure: str, limits: str) -> list[str]:
    """Returns the reasons that ``notifyutil`` and ``pmset -g therm`` have."""
    reasons = _level(re.search(r"thermalpressurelevel (\d)\b", pressure), MACOS, "macOS' thermal pressure")
    limit = re.search(r"CPU_Speed_Limit\s*=\s*(\d+)", limits)
    if limit and int(limit[1]) < 100:
        reasons.append(f"macOS limits the processor to {int(limit[1])} % of its speed")
    return reasons


def of_cooling(files: Mapping[str, str]) -> Iterator[str]:
    """Yields a reason for each cooling device of sysfs, other than a fan, that is at work.

    Args:
        files: paths to texts; those of cooling devices are picked out.
    """
    for path, kind in files.items():
        if "/cooling_device" in path and path.endswith("/type") and _SLOWING.search(kind):
            state = files.get(f"{path.removesuffix('type')}cur_state", "")
            if state.isdecimal() and int(state) > 0:
                yield f"the kernel cools with {kind} at step {int(state)}"


def _level(found: re.Match[str] | None, names: tuple[str, ...], title: str) -> list[str]:
    level = int(found[1]) if found else 0
    return [f"{title} is {names[level]}"] if 0 < level < len(names) else []
