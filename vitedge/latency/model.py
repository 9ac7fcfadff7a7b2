# SPDX-License-Identifier: Apache-2.0
"""The description of a model to be measured, as it is sent to a worker process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class MeasuredModel:
    """One model to be measured in one runtime; it is sent to the process that runs it as JSON."""

    label: str
    """The model's name in reports and sentences."""
    runtime: str
    """A name of `vitedge.registry.RUNTIMES`."""
    source: str
    """The artifact's path, or the first argument of the factory."""
    batch: int | None = None
    """Batch size; None is the artifact's fixed batch, or 1."""
    threads: int | None = None
    """Processor threads; None is the number of physical cores that a process may use there, for every runtime alike."""
    factory: str = ""
    """For a runtime that runs no file: ``package.module:name`` of the function that makes its source in the worker.

    It is called with ``source`` and ``options`` and returns the source of the runtime (for torch an ``nn.Module``)
    and the tuple of its inputs' `TensorSpec`.
    """
    options: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the factory, plain JSON values."""
    declared: Mapping[str, Any] = field(default_factory=dict)
    """``inputs`` and ``outputs`` as the artifact's record has them, for programs that do not tell them."""
