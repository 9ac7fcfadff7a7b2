# SPDX-License-Identifier: Apache-2.0
"""The Python of a device that models run in: found by asking each where it may be, and what it can import."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vitedge import registry
from vitedge.devices.transports.transport import Completed, quoted
from vitedge.errors import MissingBackend

VARIABLE = "VITEDGE_DEVICE_PYTHON"
"""Environment variable of this machine with the path of the Python to take on the device."""
PLACES = ("~/.vitedge/bin/python", "~/.venv/bin/python", "~/venv/bin/python", "python3", "python")
"""Where it is looked for, in this order: the user's environments before the system's, whose pip Debian has closed."""
VENV = "python3 -m venv ~/.vitedge && ~/.vitedge/bin/pip"
"""What to type, before ``install``, where pip may not install into the system's Python."""
RUNTIMES = ("onnxruntime", "onnxruntime-cuda", "onnxruntime-tensorrt", "openvino", "tensorrt", "coreml")
"""Runtimes of `vitedge.registry.RUNTIMES` that the runner has; the others need what no board should install."""
_NEEDED: Mapping[str, tuple[str, ...]] = {
    "coreml": ("coremltools", "PIL"),
    "onnxruntime-cuda": ("onnxruntime",),
    "onnxruntime-tensorrt": ("onnxruntime",),
}
_PROVIDERS: Mapping[str, str] = {
    "onnxruntime-cuda": "CUDAExecutionProvider",
    "onnxruntime-tensorrt": "TensorrtExecutionProvider",
}
_LIMIT_S = 180.0


@dataclass(frozen=True)
class Interpreter:
    """One Python of the device."""

    program: str
    """Its path there."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What `vitedge.devices.about` returns there."""

    @property
    def versions(self) -> Mapping[str, str]:
        """Versions of the libraries that it can import, by their import names."""
        found: Mapping[str, str] = self.facts["versions"]
        return found

    @property
    def pip(self) -> str:
        """The command that installs into it, or into an environment where the system forbids that (PEP 668)."""
        return VENV if self.facts.get("managed") else f"{self.program} -m pip"

    def refusal(self, runtime: str, device: str) -> str:
        """Returns why a runtime does not work in it; empty where it does."""
        part = registry.RUNTIMES[runtime]
        if runtime not in RUNTIMES:
            return f"{part.title} does not run on {device}, only on the machine that exports."
        if part.systems and self.facts["system"] not in part.systems:
            return f"{part.title} does not run on {self.facts['system']}: {part.otherwise}."
        for library in _NEEDED.get(runtime, (runtime,)):
            if library in self.facts["broken"]:
                return f"{library} is installed on {device} but cannot be imported: {self.facts['broken'][library]}."
            if library not in self.versions:
                name = {"PIL": "pillow"}.get(library, library)
                return f"{part.title} is not installed on {device}; there type: {self.pip} install {name}"
        provider = _PROVIDERS.get(runtime)
        if provider and provider not in self.facts.get("providers", ()):
            return f"The ONNX Runtime of {device} has no {provider}; install the build for its GPU there."
        return ""


def find_interpreter(shell: Callable[[str, float], Completed], runner: str, device: str) -> Interpreter:
    """Returns the first Python of the device that has a runtime, or else the first that can run the runner.

    Args:
        shell: runs a script there, within some seconds.
        runner: path of the runner there.
        device: as users write it.

    Raises:
        MissingBackend: there is none that is new enough and has NumPy.
    """
    given = os.environ.get(VARIABLE, "")
    places = (given,) if given else PLACES
    lines = []
    for number, place in enumerate(places):
        program = f'"$HOME"/{quoted([place[2:]])}' if place.startswith("~/") else quoted([place])
        lines.append(
            f'program=$(command -v {program} 2>/dev/null) && echo {number} "$program" && '
            f'said=$("$program" {quoted([runner])} about 2>&1 </dev/null | tail -n 1) && '
            'printf "%s\\n" "${said:-it ended without a word}"'
        )
    said = shell("\n".join(lines), _LIMIT_S).out.splitlines()
    found, tried = _read(said)
    usable = [one for one in found if "numpy" in one.versions]
    if not usable:
        raise MissingBackend(_none(device, given, found, tried))
    return next((one for one in usable if len(one.versions) > 1 and _has_runtime(one)), usable[0])


def _has_runtime(one: Interpreter) -> bool:
    return any(name in one.versions for name in ("onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "coremltools"))


def _read(said: list[str]) -> tuple[list[Interpreter], dict[str, str]]:
    """Returns every Python that answered, and what each of the others said, by its path."""
    found: list[Interpreter] = []
    tried: dict[str, str] = {}
    program = ""
    for line in said:
        number, _, rest = line.partition(" ")
        if number.isdigit() and rest.startswith("/"):
            program = rest
        elif program:
            try:
                facts = json.loads(line)
                found.append(Interpreter(program, {**facts, "versions": dict(facts["versions"])}))
            except (ValueError, KeyError, TypeError):
                tried[program] = line.strip()[:160]
    return found, tried


def _none(device: str, given: str, found: list[Interpreter], tried: Mapping[str, str]) -> str:
    if found:
        return f"{found[0].program} on {device} has no NumPy; there type: {VENV} install numpy onnxruntime"
    if tried:
        program, words = next(iter(tried.items()))
        return f"{device} has no Python that can run a model: {program} says: {words}."
    looked = given or ", ".join(PLACES)
    return f"{device} has no Python that could run a model; it was looked for at {looked} (set {VARIABLE} to its path)."
