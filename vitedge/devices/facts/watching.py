# SPDX-License-Identifier: Apache-2.0
"""A device watched while something is measured on it: the script that writes readings, and its text as samples.

The script is POSIX sh. It writes to its standard output until its time is up, it is ended, or nobody reads it any more,
and leaves no process behind. Times are seconds since the start of the system, as in /proc/uptime and as Python's
``time.clock_gettime(time.CLOCK_BOOTTIME)`` tells them, so that readings and inferences share a clock.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from vitedge.devices.facts import tegrastats, throttling
from vitedge.devices.facts.condition import GPU_NAMES, is_temperature
from vitedge.devices.facts.identity import number
from vitedge.devices.facts.reading import PLACES, line
from vitedge.devices.transports.transport import quoted

FILES = (
    "/sys/devices/system/cpu/cpufreq/policy[0-9]/scaling_cur_freq",
    "/sys/devices/system/cpu/cpufreq/policy[0-9]/scaling_max_freq",
    "/sys/devices/system/cpu/cpufreq/policy1[0-9]/scaling_cur_freq",
    "/sys/devices/system/cpu/cpufreq/policy1[0-9]/scaling_max_freq",
    "/sys/devices/system/cpu/cpu0/thermal_throttle/*_throttle_count",
    "/sys/class/devfreq/*/cur_freq",
    "/sys/class/devfreq/*/max_freq",
    "/sys/class/thermal/thermal_zone[0-9]*/temp",
    "/sys/class/thermal/cooling_device[0-9]*/cur_state",
    "/sys/class/hwmon/hwmon[0-9]*/oc[0-9]_event_cnt",
    "/sys/class/hwmon/hwmon[0-9]*/in[1-3]_input",
    "/sys/class/hwmon/hwmon[0-9]*/curr[1-3]_input",
    "/sys/class/hwmon/hwmon[0-9]*/power1_input",
    "/sys/devices/platform/soc*/*firmware/get_throttled",
)
"""Read again and again; of a server's processors, the first twenty."""

FILES_ONCE = (
    "/sys/class/thermal/thermal_zone[0-9]*/type",
    "/sys/class/thermal/thermal_zone[0-9]*/trip_point_*_type",
    "/sys/class/thermal/thermal_zone[0-9]*/trip_point_*_temp",
    "/sys/class/thermal/cooling_device[0-9]*/type",
    "/sys/class/hwmon/hwmon[0-9]*/in[1-3]_label",
    "/sys/class/hwmon/hwmon[0-9]*/label",
)

PROBES = (
    # The clock of sysfs is not the real one where a Raspberry Pi throttles: raspberrypi/linux#2986.
    ("vcgencmd", "get_throttled"),
    ("vcgencmd", "measure_clock", "arm"),
    ("dumpsys", "thermalservice"),
    ("notifyutil", "-g", "com.apple.system.thermalpressurelevel"),
)
"""Commands that are run at every tenth reading of the files, where they exist."""

GPU_FIELDS = ("index", "clocks.sm", "temperature.gpu", "power.draw", "utilization.gpu")
REASONS = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")
"""Names of nvidia-smi's field that drivers from 535 on, and those before, know."""


@dataclass(frozen=True)
class Sample:
    """What was read at one moment, from one source."""

    time_s: float
    """Seconds since the start of the system."""
    clocks_mhz: Mapping[str, float] = field(default_factory=dict)
    limits_mhz: Mapping[str, float] = field(default_factory=dict)
    """The largest clocks that the system allows at that moment."""
    temperatures: Mapping[str, float] = field(default_factory=dict)
    power_w: Mapping[str, float] = field(default_factory=dict)
    events: Mapping[str, int] = field(default_factory=dict)
    """Counters of `vitedge.devices.facts.throttling.EVENTS`."""
    throttled: tuple[str, ...] = ()


def script(limit_s: float, interval_s: float = 0.2, root: str = "") -> str:
    """Returns the text of sh that writes readings.

    Args:
        limit_s: seconds after which it ends by itself.
        interval_s: seconds between readings.
        root: folder that stands for ``/`` in the paths of `FILES` and `FILES_ONCE`.
    """
    milliseconds = max(20, round(interval_s * 1000))
    probes = "\n".join(
        f"    if there {probe[0]}; then {line(probe)} </dev/null 2>/dev/null | stamped c{index}; fi"
        for index, probe in enumerate(PROBES)
    )
    fields, (newer, older) = ",".join(GPU_FIELDS), REASONS
    once, again = (" ".join(f"{quoted([root])}{path}" for path in paths) for paths in (FILES_ONCE, FILES))
    return f"""export LC_ALL=C
PATH="$PATH:{":".join(PLACES)}"
there() {{ command -v "$1" >/dev/null 2>&1; }}
now() {{ t=; {{ read -r t rest </proc/uptime; }} 2>/dev/null; [ -n "$t" ] || t=$(date +%s).00; }}
now
end=$((${{t%%.*}}${{t#*.}} + {round(limit_s * 100)}))
root={quoted([root])}
alive() {{ now; [ "${{t%%.*}}${{t#*.}}" -lt "$end" ]; }}
stamped() {{ while IFS= read -r l && alive; do printf '%s %s %s\\n' "$1" "$t" "$l" || exit; done; }}
each() {{
  for f; do
    v=
    {{ IFS= read -r v <"$f"; }} 2>/dev/null
    [ -z "$v" ] || printf 'f %s %s %s\\n' "$t" "${{f#"$root"}}" "$v" || exit
  done
}}
children=
trap 'kill $children 2>/dev/null' EXIT
trap 'exit 143' HUP INT TERM PIPE
if there tegrastats; then
  tegrastats --interval {milliseconds} 2>/dev/null </dev/null | stamped t &
  children="$children $!"
elif there nvidia-smi; then
  reasons={older}
  if nvidia-smi --query-gpu={newer} --format=csv >/dev/null 2>&1; then reasons={newer}; fi
  nvidia-smi --query-gpu={fields},$reasons --format=csv,noheader,nounits -lms {milliseconds} </dev/null 2>/dev/null |
    stamped n &
  children="$children $!"
fi
each {once}
n=0
while alive; do
  printf '. %s\\n' "$t" || exit
  each {again}
  if [ $((n % 10)) -eq 0 ]; then
    :
{probes}
  fi
  n=$((n + 1))
  sleep {milliseconds / 1000:g} 2>/dev/null || sleep 1
done
"""


def parse(text: str) -> tuple[Sample, ...]:
    """Returns the samples that a `script` wrote, in the order of time; lines that are not its own are left out.

    Args:
        text: its output, which may be cut off anywhere.
    """
    samples: list[Sample] = []
    files: dict[str, str] = {}
    fixed: dict[str, str] = {}
    group: tuple[str, float] = ("", 0.0)
    lines: list[str] = []
    for kind, time_s, rest in _lines(text):
        if (kind, time_s) != group or kind in ("t", "n"):
            samples += _of_group(group, lines, fixed, files)
            group, lines = (kind, time_s), []
        lines.append(rest)
    samples += _of_group(group, lines, fixed, files)
    return tuple(sorted(samples, key=lambda sample: sample.time_s))


def between(samples: Iterable[Sample], start_s: float, end_s: float) -> tuple[Sample, ...]:
    """Returns the samples of a span of time, both ends included, in seconds since the start of the system."""
    return tuple(sample for sample in samples if start_s <= sample.time_s <= end_s)


def _lines(text: str) -> Iterator[tuple[str, float, str]]:
    for row in text.splitlines():
        found = re.match(r"([tnf.]|c\d) (\d{1,12}(?:\.\d{1,9})?)(?: (.*))?$", row)
        if found:
            yield found[1], float(found[2]), found[3] or ""


def _of_group(
    group: tuple[str, float], lines: list[str], fixed: dict[str, str], files: dict[str, str]
) -> Iterator[Sample]:
    """Yields the sample that lines of one kind and time make; keeps what files say that are read once."""
    kind, time_s = group
    if kind == "t" and (read := tegrastats.parsed(lines[0])):
        yield Sample(time_s, read.clocks_mhz, {}, read.temperatures, read.power_w)
    elif kind == "n":
        yield from _of_nvidia_smi(time_s, lines[0])
    elif kind.startswith("c"):
        yield from _of_probe(time_s, int(kind[1:]), "\n".join(lines))
    elif kind == "f":
        pairs = dict(row.partition(" ")[::2] for row in lines)
        once = re.compile(r"/type$|/trip_point_|label$")
        fixed.update({path: value for path, value in pairs.items() if once.search(path)})
        read_now = {path: value for path, value in pairs.items() if not once.search(path)}
        if read_now:
            files.update(read_now)
            yield _of_files(time_s, read_now, fixed)


def _of_nvidia_smi(time_s: float, row: str) -> Iterator[Sample]:
    cells = [cell.strip() for cell in row.split(",")]
    if len(cells) != len(GPU_FIELDS) + 1 or not cells[0].isdecimal():
        return
    name = "gpu" if cells[0] == "0" else f"gpu{cells[0]}"
    clock, temperature, power = ({name: value} if (value := number(cell)) is not None else {} for cell in cells[1:4])
    yield Sample(time_s, clock, {}, temperature, power, {}, tuple(throttling.of_gpu(cells[-1])))


def _of_probe(time_s: float, index: int, text: str) -> Iterator[Sample]:
    program, argument = PROBES[index][:2] if index < len(PROBES) else ("", "")
    clocks: dict[str, float] = {}
    reasons: list[str] = []
    if argument == "get_throttled":
        reasons = throttling.of_pi(text)[0]
    elif argument == "measure_clock":
        hertz = number(text.rpartition("=")[2])
        clocks = {"arm": hertz / 1e6} if hertz else {}
    elif program == "dumpsys":
        reasons = throttling.of_android(text)
    elif program == "notifyutil":
        reasons = throttling.of_macos(text, "")
    if clocks or reasons:
        yield Sample(time_s, clocks, throttled=tuple(reasons))


def _of_files(time_s: float, files: Mapping[str, str], fixed: Mapping[str, str]) -> Sample:
    clocks: dict[str, float] = {}
    limits: dict[str, float] = {}
    temperatures: dict[str, float] = {}
    events: dict[str, int] = {}
    reasons = list(throttling.of_cooling({**fixed, **files}))
    for path, text in files.items():
        folder, _, name = path.rpartition("/")
        unit = folder.rpartition("/")[2]
        value = number(text)
        if name == "get_throttled":
            reasons += throttling.of_pi(text)[0]
        if value is None:
            continue
        if name in ("scaling_cur_freq", "scaling_max_freq"):
            (clocks if "cur" in name else limits)[unit.replace("policy", "cpu")] = value / 1e3
        elif name in ("cur_freq", "max_freq") and GPU_NAMES.search(unit) and "nvd" not in unit:
            kept = clocks if "cur" in name else limits
            kept["gpu"] = max(value / 1e6, kept.get("gpu", 0.0))
        elif name == "temp" and is_temperature(value / 1000):
            temperatures[f"{unit} {fixed.get(f'{folder}/type', unit)}"] = value / 1000
            reasons += _trips(folder, value, fixed)
        elif name in throttling.EVENTS:
            events[name] = events.get(name, 0) + int(value)
    clocks = {name: clock for name, clock in clocks.items() if clock > 0}
    return Sample(time_s, clocks, limits, temperatures, dict(_power(files, fixed)), events, tuple(reasons))


def _trips(zone: str, millidegrees: float, fixed: Mapping[str, str]) -> Iterator[str]:
    """Yields a reason for each trip point of a zone that slows the device down and is reached."""
    for path, kind in fixed.items():
        if path.startswith(f"{zone}/trip_point_") and kind in ("passive", "hot", "critical"):
            trip = number(fixed.get(f"{path.removesuffix('type')}temp", ""))
            if trip and 20_000 < trip <= millidegrees:
                yield f"{fixed.get(f'{zone}/type', zone)} is at its {kind} trip point of {trip / 1000:g} degrees"


def _power(files: Mapping[str, str], fixed: Mapping[str, str]) -> Iterator[tuple[str, float]]:
    """Yields the rails of power monitors (INA3221 in mV and mA, INA238 in microwatts) and their power in watts."""
    for path, text in files.items():
        folder, _, name = path.rpartition("/")
        found = re.fullmatch(r"curr(\d)_input", name)
        if found:
            label = fixed.get(f"{folder}/in{found[1]}_label", "")
            volts, amperes = number(files.get(f"{folder}/in{found[1]}_input", "")), number(text)
            if label and volts is not None and amperes is not None:
                yield label, volts * amperes / 1e6
        elif name == "power1_input" and fixed.get(f"{folder}/label") and (microwatts := number(text)) is not None:
            yield fixed[f"{folder}/label"], microwatts / 1e6
