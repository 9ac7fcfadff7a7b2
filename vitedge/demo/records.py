# SPDX-License-Identifier: Apache-2.0
"""What ``demo`` returns. Frozen dataclasses without behaviour, like `vitedge.records`."""

from __future__ import annotations

from dataclasses import dataclass

from vitedge.records import OutputParity


@dataclass(frozen=True)
class DemoRow:
    """One artifact of the demo beside the model that it came from."""

    model: str
    format: str
    precision: str
    size: int
    parity: OutputParity
    reference_top1: float
    """Share of the test images that PyTorch classifies correctly."""
    top1: float
    reference_ms: float
    """Median latency of PyTorch eager, measured in turn with the artifact."""
    median_ms: float | None
    """None where what it is deployed in does not run on this machine."""


@dataclass(frozen=True)
class DemoResult:
    """What `demo` produced."""

    folder: str
    images: int
    rows: tuple[DemoRow, ...]
    seconds: float
