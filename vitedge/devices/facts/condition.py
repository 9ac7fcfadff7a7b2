# SPDX-License-Identifier: Apache-2.0
"""How a device is, from the texts of `vitedge.devices.facts.reading.CONDITION`.

Nothing here fails: what is absent, or not as expected, is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from vitedge.devices.facts import reading, throttling
from vitedge.devices.facts.identity import number, text_of

Texts = Mapping[str, str]

GPU_NAMES = re.compile(r"gpu|g[mpva]\d+b|mali|kgsl|v3d", re.IGNORECASE)
"""Names that GPUs have under /sys/class/devfreq; Thor's ``gpu-nvd`` is its video engines."""


def condition(texts: Texts) -> dict[str, Any]:
    """Returns the facts that change.

    Args:
        texts: what was read of `vitedge.devices.facts.reading.CONDITION`.

    Returns:
        Plain JSON values under ``power_mode`` (the name that nvpmodel has), ``governor, scaling_driver,
        clocks_locked, clocks_mhz`` and ``clocks_max_mhz`` (a value a processor, in the order of their numbers; the
        largest that is allowed now), ``gpu_clock_mhz, gpu_clock_max_mhz, memory_clock_mhz, memory_clock_max_mhz,
        temperatures`` (degrees Celsius), ``gpu_power_w, gpu_power_limit_w, load_average, uptime_s, events`` (counters
        that rise with each), ``throttled`` (reasons that hold now) and ``throttled_before`` (since the start of
        the system). What is not known is left out.
    """
    now, before = _throttled(texts)
    facts: dict[str, Any] = {
        "power_mode": _power_mode(texts),
        "governor": " + ".join(dict.fromkeys(_each(texts, "/scaling_governor"))),
        "scaling_driver": " + ".join(_each(texts, "/scaling_driver")),
        "clocks_locked": _locked(texts),
        "clocks_mhz": _clocks(texts, "/scaling_cur_freq"),
        "clocks_max_mhz": _clocks(texts, "/scaling_max_freq"),
        **_gpu(texts),
        **_memory_clock(texts),
        "temperatures": _temperatures(texts),
        "load_average": _load(texts),
        "uptime_s": number(texts.get("/proc/uptime", "").partition(" ")[0]),
        "events": _events(texts),
        "throttled": now,
        "throttled_before": before,
    }
    return {name: value for name, value in facts.items() if value not in (None, "", [], {})}


def _numbered(path: str) -> list[int]:
    return [int(digits[:18]) for digits in re.findall(r"[0-9]+", path)]


def _each(texts: Texts, ending: str, within: str = "/sys/devices/system/cpu/") -> list[str]:
    """Returns the texts of files with that end, in the order of the numbers in their paths."""
    paths = [path for path in texts if path.startswith(within) and path.endswith(ending)]
    return [texts[path] for path in sorted(paths, key=_numbered)]


def _clocks(texts: Texts, ending: str) -> list[int]:
    """Returns clocks in MHz of files in kHz; where sysfs has none, those of ``jetson_clocks --show``."""
    found = [value for text in _each(texts, ending) if (value := number(text)) is not None]
    if not found:
        name = {"/scaling_cur_freq": "CurrentFreq", "/scaling_max_freq": "MaxFreq"}.get(ending, "MinFreq")
        shown = _shown(texts, rf"cpu(\d+): .*?\b{name}=(\d+)")
        found = [float(khz) for _, khz in sorted(shown, key=lambda pair: int(pair[0]))]
    return [int(value) // 1000 for value in found]


def _shown(texts: Texts, pattern: str) -> list[tuple[str, str]]:
    """Returns what a pattern with two groups finds in the lines of ``jetson_clocks --show``."""
    for words in (("jetson_clocks",), ("sudo", "-n", "jetson_clocks")):
        found = re.findall(pattern, text_of(texts, *words))
        if found:
            return [(first[:18], second[:18]) for first, second in found]
    return []


def _locked(texts: Texts) -> bool | None:
    """Returns whether every processor has one clock alone; None where it is not known."""
    lowest, highest = _clocks(texts, "/scaling_min_freq"), _clocks(texts, "/scaling_max_freq")
    return lowest == highest if lowest and len(lowest) == len(highest) else None


def _power_mode(texts: Texts) -> str:
    for words in (("nvpmodel",), ("jetson_clocks",), ("sudo", "-n", "jetson_clocks")):
        found = re.search(r"NV Power Mode: *(\S+)", text_of(texts, *words))
        if found:
            return found[1]
    return ""


def _devfreq(texts: Texts, ending: str) -> float | None:
    """Returns the largest clock in MHz of the GPU's files, which are in Hz."""
    paths = [path for path in texts if path.startswith("/sys/class/devfreq/") and path.endswith(ending)]
    paths = [path for path in paths if GPU_NAMES.search(path.split("/")[4]) and "nvd" not in path.split("/")[4]]
    found = [value for path in paths if (value := number(texts[path])) is not None]
    return max(found) / 1e6 if found else None


def _gpu_values(texts: Texts) -> list[float | None]:
    """Returns the six values of the first GPU that `reading.GPU_NOW` asks for; None for those that it does not tell."""
    row = text_of(texts, *reading.GPU_NOW).partition("\n")[0].split(", ")
    return [number(text) for text in row] if len(row) == 6 else [None] * 6


def _gpu(texts: Texts) -> dict[str, Any]:
    values = _gpu_values(texts)
    shown = {name: _shown_mhz(texts, "(?:GPU|gpu-gpc-0)", name) for name in ("Max", "Current")}
    return {
        "gpu_clock_mhz": _rounded(_first(values[0], _devfreq(texts, "/cur_freq"), shown["Current"])),
        "gpu_clock_max_mhz": _rounded(_first(_devfreq(texts, "/max_freq"), shown["Max"], values[1])),
        "gpu_power_w": values[4],
        "gpu_power_limit_w": values[5],
    }


def _memory_clock(texts: Texts) -> dict[str, Any]:
    return {
        "memory_clock_mhz": _rounded(_shown_mhz(texts, "EMC", "Current")),
        "memory_clock_max_mhz": _rounded(_shown_mhz(texts, "EMC", "Max")),
    }


def _shown_mhz(texts: Texts, unit: str, which: str) -> float | None:
    found = _shown(texts, rf"(?m)^({unit}) .*?\b{which}Freq=(\d+)")
    return float(found[0][1]) / 1e6 if found else None


def _first(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)


def _rounded(value: float | None) -> int | None:
    return None if value is None else round(value)


def is_temperature(value: float | None) -> bool:
    """Returns whether a number can be a temperature in degrees Celsius: a sensor that is off reads -256 or -99.9."""
    return value is not None and -60 < value < 200


def _temperatures(texts: Texts) -> dict[str, float]:
    found: dict[str, float | None] = {}
    for path in sorted((path for path in texts if "/thermal_zone" in path and path.endswith("/temp")), key=_numbered):
        zone = path.split("/")[-2]
        value = number(texts[path])
        found[f"{zone} {texts.get(path.removesuffix('temp') + 'type', zone)}"] = value / 1000 if value else None
    found["gpu"] = _gpu_values(texts)[3]
    pi = re.search(r"temp=(-?[\d.]+)", text_of(texts, "vcgencmd", "measure_temp"))
    found["vcgencmd"] = number(pi[1]) if pi else None
    live = text_of(texts, "dumpsys", "thermalservice").partition("Current temperatures from HAL:")[2]
    for value_, name in re.findall(r"Temperature\{mValue=([^,}]*), mType=[^,}]*, mName=([^,}]*)", live):
        found[name] = number(value_)
    return {name: value for name, value in found.items() if value is not None and is_temperature(value)}


def _load(texts: Texts) -> list[float]:
    told = texts.get("/proc/loadavg", "") or text_of(texts, "sysctl", "vm.loadavg")
    found = re.findall(r"\d+\.\d+", told)[:3]
    return [float(value[:12]) for value in found] if len(found) == 3 else []


def _events(texts: Texts) -> dict[str, int]:
    """Returns the counters of events by their names; of several hardware monitors, the sum."""
    found: dict[str, int] = {}
    for path, text in texts.items():
        name = path.rpartition("/")[2]
        if name in throttling.EVENTS and text.isdecimal():
            found[name] = found.get(name, 0) + int(text[:18])
    return found


def _throttled(texts: Texts) -> tuple[list[str], list[str]]:
    """Returns the reasons that hold now, and those that held since the start of the system."""
    now = list(_reasons_now(texts))
    before: list[str] = []
    told = text_of(texts, "vcgencmd", "get_throttled") or next(
        (text for path, text in texts.items() if path.endswith("/get_throttled")), ""
    )
    if told:
        pi, before = throttling.of_pi(told)
        now += pi
    before += [f"{throttling.EVENTS[name]}, {count} x" for name, count in _events(texts).items() if count]
    return list(dict.fromkeys(now)), before


def _reasons_now(texts: Texts) -> Iterator[str]:
    for name in ("clocks_event_reasons", "clocks_throttle_reasons"):
        yield from throttling.of_gpu(texts.get(f"nvidia-smi --query-gpu={name}.active --format=csv,noheader", ""))
    yield from throttling.of_android(text_of(texts, "dumpsys", "thermalservice"))
    pressure = text_of(texts, "notifyutil")
    yield from throttling.of_macos(pressure, text_of(texts, "pmset"))
    yield from throttling.of_cooling(texts)
