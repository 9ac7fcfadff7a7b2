# SPDX-License-Identifier: Apache-2.0
"""What an engine is built from, and how: the record that every builder of engines takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

Shape = tuple[int, ...]


@dataclass(frozen=True)
class EngineRequest:
    """One build of an engine."""

    onnx: Path
    """The ONNX file; its external weights lie beside it."""
    out: Path
    """The engine to write; it is written in one step, after the build."""
    targets: tuple[str, ...]
    """Compute capabilities that it has to run on, such as ``SM86``; empty is the GPU of this machine."""
    shapes: Mapping[str, tuple[Shape, Shape, Shape]] = field(default_factory=dict)
    """Name of an input with a dynamic axis to its smallest, usual and largest shape."""
    options: Mapping[str, int | bool | str] = field(default_factory=dict)
    """Options of the builder by their names in vitedge; one that the builder does not know is refused."""
    limit_s: float = 1800.0
    """Seconds after which a build is ended."""
    progress: Callable[[str], None] = lambda _text: None
    """Called with one line a phase of the build."""
