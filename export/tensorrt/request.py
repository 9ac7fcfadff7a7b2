# SPDX-License-Identifier: Apache-2.0
"""What an engine is built from and how, and what a build returns: the records that every builder of engines shares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vitedge.export.tensorrt.records import EngineLayer
from vitedge.records import Artifact

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
    newest_opset: int | None = None
    """The newest opset that the file may have; None is any: the parsers refuse none themselves."""
    limit_s: float = 1800.0
    """Seconds after which a build is ended."""
    progress: Callable[[str], None] = lambda _text: None
    """Called with one line a phase of the build."""


BATCHES = (8, 32)
"""Usual and largest batch of an engine, unless others are asked for."""


def shapes_of(source: Artifact, batches: tuple[int, int] | None = None) -> dict[str, tuple[Shape, Shape, Shape]]:
    """Returns the smallest, usual and largest shape of every input with a dynamic batch.

    Args:
        source: an ONNX file.
        batches: the usual batch, and the largest; the smallest is 1. None is `BATCHES`.
    """
    found = {}
    for value in source.inputs:
        sides = tuple(side for side in value.shape[1:] if isinstance(side, int))
        if not isinstance(value.shape[0], int):
            low, usual, high = ((batch, *sides) for batch in (1, *(batches or BATCHES)))
            found[value.name] = (low, usual, high)
    return found


@dataclass(frozen=True)
class BuiltEngine:
    """What the process of a builder reports beside the engine's bytes."""

    version: str
    """Version of the builder, to the last part."""
    targets: tuple[str, ...]
    """Compute capabilities that the engine runs on; ``CURRENT`` where it was built for the GPU of this machine."""
    shapes: Mapping[str, tuple[Shape, ...]]
    """Name of every input to its smallest, usual and largest shape; one shape where it is fixed."""
    options: Mapping[str, int | bool | str]
    """Every option of the builder that vitedge sets, with the values that were used."""
    layers: tuple[EngineLayer, ...] | None
    """Its kernels in the order of execution; None where the builder did not tell."""
