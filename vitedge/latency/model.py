# SPDX-License-Identifier: Apache-2.0
"""One model to be measured, as the near end of a worker process describes it to the far end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class MeasuredModel:
    """One model to be measured, in one runtime; it crosses to the process that runs it as JSON."""

    label: str
    runtime: str
    """A name of `vitedge.registry.RUNTIMES`."""
    source: str
    """The artifact's path, or what the factory takes."""
    batch: int | None = None
    """None is the artifact's fixed batch, or 1."""
    threads: int | None = None
    """None is the number of physical cores that a process may use there, the same for every runtime."""
    factory: str = ""
    """For a runtime that runs no file: ``package.module:name`` of what makes its source in the other process.

    It is called with ``source`` and ``options`` and returns the source of the runtime (for torch an ``nn.Module``)
    and the tuple of its inputs' `TensorSpec`.
    """
    options: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the factory, plain JSON values."""
