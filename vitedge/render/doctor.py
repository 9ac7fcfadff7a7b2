# SPDX-License-Identifier: Apache-2.0
"""Renders a check-up: the device, what can be done there, and what mends the rest."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from rich import filesize

from vitedge.devices.health.abilities import FAILING, MISSING
from vitedge.devices.health.records import Ability, Checkup
from vitedge.registry import LOCAL
from vitedge.render.screen import document, lines, show, table
from vitedge.render.text import Folded, printable
from vitedge.sentences import some

_FACTS: Mapping[str, str] = {
    "model": "model",
    "soc": "SoC",
    "processor": "processor",
    "isa": "extensions",
    "memory_mb": "memory",
    "os": "system",
    "jetpack": "JetPack",
    "gpu": "GPU",
    "cuda": "CUDA",
    "tensorrt": "TensorRT",
    "python": "Python",
    "power_mode": "power mode",
    "governor": "governor",
    "clocks_mhz": "clock",
    "temperatures": "temperature",
    "throttled": "throttled",
}
"""Key of what a device tells to the name of its row."""


def render(result: Checkup, *, as_json: bool) -> None:
    """Prints what the device is, a row for everything that could be done there, and what to type."""
    if as_json:
        return document(result)
    told = {**result.identity, **result.condition}
    drawn = table("", "")
    for key, name in _FACTS.items():
        if told.get(key):
            drawn.add_row(name, _fact(key, told))
    show(drawn, "this machine" if result.device == LOCAL else result.device)
    rows = table("", "", "")
    rows.columns[0].no_wrap = rows.columns[1].no_wrap = True
    rows.columns[2].no_wrap = False
    for one in result.abilities:
        rows.add_row(one.name, one.state, Folded(printable(one.detail)))
    show(rows)
    lines(*_mending(result.abilities), *(f"note: {note}" for note in result.notes))
    lines(*(f"note: {remark.text}; type: {remark.remedy}" for remark in result.remarks))
    lines(*_end(result))
    return None


def _fact(key: str, told: Mapping[str, Any]) -> str:
    value = told[key]
    written = {
        "processor": lambda: _processor(told),
        "memory_mb": lambda: filesize.decimal(value * 10**6),
        "jetpack": lambda: f"{value} (L4T {told.get('l4t', 'unknown')})",
        "gpu": lambda: " ".join(str(told[name]) for name in ("gpu", "sm") if told.get(name)),
        "clocks_mhz": lambda: f"{max(value)} MHz of {max(told.get('clocks_max_mhz') or value)}",
        "temperatures": lambda: "{1:.0f} degrees ({0})".format(*max(value.items(), key=lambda pair: pair[1])),
        "throttled": lambda: "; ".join(value),
        "isa": lambda: " ".join(value),
    }
    return written[key]() if key in written else str(value)


def _processor(told: Mapping[str, Any]) -> str:
    cores = f"{told['cores']} cores" if told.get("cores") else ""
    return ", ".join(filter(None, (told["processor"], told.get("architecture", ""), cores)))


def _mending(abilities: tuple[Ability, ...]) -> Iterator[str]:
    """Yields what to type for everything that is broken or missing."""
    for one in abilities:
        if one.state in (FAILING, MISSING) and one.remedy:
            yield f"{one.name}: {one.remedy}"


def _end(result: Checkup) -> Iterator[str]:
    """Yields which profile fits, whether all works, and what to type next."""
    if result.fitting:
        yield f"profile: {result.fitting[0]}" + (f" (also {some(result.fitting[1:])})" if result.fitting[1:] else "")
    else:
        yield "profile: none is for it; see vitedge profiles"
    bad = (*result.broken, *result.missing)
    if bad:
        yield f"not all works: {some(bad, 4)}"
        return
    asked = f"all that {result.profile} needs works" if result.profile else "all that is installed works"
    name = result.profile or next(iter(result.fitting), "")
    device = () if result.device == LOCAL else ("--device", result.device)
    words = ("vitedge", "export", "CHECKPOINT", "-o", "BUNDLE", *(("--for", name) if name else ()), *device)
    yield f"{asked}; what writes a bundle for it: {shlex.join(words)}"
