# SPDX-License-Identifier: Apache-2.0
"""Reads what trtexec prints: its version and end, errors, warnings, the GPU, and the shapes and times of an engine.

A line has a date, then a letter for its severity; errors and warnings go to the error output. The lines that frame a
run begin with ``&&&&``. The forms are those of NVIDIA/TensorRT, ``samples/common`` (``logging.h``, ``sampleDevice``,
``sampleInference.cpp``) at 8.2, 8.5, 8.6, 10.3, 10.13 and 11.1.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_BANNER = re.compile(r"^&&&& \w+ TensorRT\.\w+ \[TensorRT v(\d+)\]", re.MULTILINE)
_END = re.compile(r"^&&&& (PASSED|FAILED) ", re.MULTILINE)
_LINE = re.compile(r"^\[[\d/]+-[\d:]+\] \[(?P<severity>[FEWIV])\] ?(?P<text>.*)$")
_BINDING = re.compile(
    r"(?:Created )?(?P<mode>[Ii]nput|[Oo]utput) binding for (?P<name>.*) with dimensions (?P<sides>\d+(?:x\d+)*)"
)
"""Up to 8.5 ``Created input binding for NAME with dimensions 1x3``, then ``Input binding for NAME …is created.``"""
_SECONDS = re.compile(r"Engine (?P<what>loaded|deserialized|built) in (?P<seconds>[\d.e+-]+) sec")
_WARMED_UP = re.compile(r"Warmup completed (\d+) queries")
_NO_GPU = "Cannot find any available devices"
"""In a message that is no error to trtexec, which ends without a last line after it."""
_SHAPELESS = ("Shape missing for input", "Dynamic dimensions required for input")
_UNCAPTURED = "not permitted under CUDA graph capture mode"
_LIBRARY = "[TRT] "
"""Beginning of what TensorRT itself says."""


@dataclass(frozen=True)
class Log:
    """The output of one run."""

    version: str
    """Version of TensorRT such as ``8.6.1``; empty where the first line does not tell it."""
    end: str
    """``PASSED``, ``FAILED``, or empty where it ended in neither way."""
    errors: tuple[str, ...]
    """Messages of errors, each once."""
    warnings: tuple[str, ...]
    """Messages of warnings in trtexec's words, each once, with the lines that continue them."""
    gpu: str
    """NVIDIA's name of the GPU; empty where no GPU was touched."""
    capability: str
    """Its compute capability, such as ``SM87``; empty likewise."""
    inputs: Mapping[str, tuple[int, ...]]
    """Name of every input to the shape in which the engine ran."""
    outputs: Mapping[str, tuple[int, ...]]
    """Name of every output likewise."""
    seconds: Mapping[str, float]
    """``loaded``, ``deserialized`` and ``built`` to their seconds, where they were done."""
    warmup: int
    """Inferences before the first sample."""

    @property
    def load_ms(self) -> float:
        """Milliseconds of reading and deserializing the engine, which 8.2 tells as one time and later ones as two."""
        return 1e3 * (self.seconds.get("loaded", 0.0) + self.seconds.get("deserialized", 0.0))

    @property
    def is_dynamic(self) -> bool:
        """Whether an input has a dynamic axis and was given no shape: trtexec takes 1 for the axis."""
        return any(warning.startswith(_SHAPELESS) for warning in self.warnings)

    @property
    def is_uncaptured(self) -> bool:
        """Whether the engine could not be captured as a CUDA graph, and ran without one."""
        return any(_UNCAPTURED in warning for warning in self.warnings)


def read_log(out: str, err: str) -> Log:
    """Returns what a run has printed on its output and its error output."""
    banner, end = _BANNER.search(out), _END.search(out)
    messages = [*_messages(out), *_messages(err)]
    told = [text for severity, text in messages if severity == "I"]
    bindings = [match for match in map(_BINDING.match, told) if match]
    errors = [text.removeprefix(_LIBRARY) for severity, text in messages if severity in "FE"]
    return Log(
        version=_version(int(banner[1])) if banner else "",
        end=end[1] if end else "",
        errors=tuple(dict.fromkeys((*errors, *(text for text in told if text.startswith(_NO_GPU))))),
        warnings=tuple(dict.fromkeys(text for severity, text in messages if severity == "W")),
        gpu=_value(told, "Selected Device: "),
        capability=_capability(_value(told, "Compute Capability: ")),
        inputs=_shapes(bindings, "input"),
        outputs=_shapes(bindings, "output"),
        seconds={match["what"]: float(match["seconds"]) for match in map(_SECONDS.search, told) if match},
        warmup=next((int(match[1]) for match in map(_WARMED_UP.search, told) if match), 0),
    )


def _messages(text: str) -> Iterator[tuple[str, str]]:
    """Yields severity and text of messages that are not empty; lines that are indented continue the one before."""
    severity, words = "", ""
    for line in text.splitlines():
        match = _LINE.match(line)
        if match and match["text"].startswith("  ") and match["severity"] == severity == "W":
            words += f" {match['text'].strip()}"
            continue
        if words:
            yield severity, words
        severity, words = (match["severity"], match["text"].strip().removeprefix("* ")) if match else ("", "")
    if words:
        yield severity, words


def _version(number: int) -> str:
    """Returns the version behind NVIDIA's number: ``8601`` is 8.6.1, and since 10 ``100300`` is 10.3.0."""
    major, rest = divmod(number, 10_000 if number >= 100_000 else 1_000)
    return f"{major}.{rest // 100}.{rest % 100}"


def _value(told: list[str], title: str) -> str:
    return next((text.removeprefix(title) for text in told if text.startswith(title)), "")


def _capability(number: str) -> str:
    return f"SM{number.replace('.', '')}" if number else ""


def _shapes(bindings: list[re.Match[str]], mode: str) -> dict[str, tuple[int, ...]]:
    chosen = [match for match in bindings if match["mode"].lower() == mode]
    return {match["name"]: tuple(int(side) for side in match["sides"].split("x")) for match in chosen}
