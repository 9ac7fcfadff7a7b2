# SPDX-License-Identifier: Apache-2.0
"""The records that ``vitedge demo`` returns. Frozen dataclasses without behaviour, like `vitedge.records`."""

from __future__ import annotations

from dataclasses import dataclass

from vitedge.records import OutputParity, SpeedComparison


@dataclass(frozen=True)
class DemoPruning:
    """What was left of the model that an artifact came from."""

    macs: float
    """Multiply-accumulates, relative to the dense model."""
    sqnr_db: float
    """Centred SQNR of the pruned PyTorch model against the dense one, in dB, on test images that it was not refitted
    on."""
    images: int
    """Test images, without their labels, on which units were ranked and layers refitted."""


@dataclass(frozen=True)
class DemoRow:
    """One artifact of the demo beside the model that it came from."""

    model: str
    format: str
    precision: str
    size: int
    """Bytes."""
    parity: OutputParity
    """Against the PyTorch model that it was exported from: of a pruned artifact the pruned one."""
    reference_top1: float
    """Share of the test images that PyTorch classifies correctly."""
    top1: float
    """The same share for the artifact."""
    reference_ms: float
    """Median latency of PyTorch eager, measured in turn with the artifact."""
    median_ms: float | None
    """Median latency of the artifact; None where its runtime does not work on this machine."""
    speed: SpeedComparison | None = None
    """A quantized artifact beside float ones; None for a float one, and where it was not timed so."""
    pruning: DemoPruning | None = None
    """How its model was pruned; None for a dense one."""


@dataclass(frozen=True)
class DemoResult:
    """The result of ``vitedge demo``."""

    folder: str
    """Folder of the bundles."""
    images: int
    """Number of test images."""
    rows: tuple[DemoRow, ...]
    seconds: float
    engine: str = ""
    """The engine that was built and what it computes, in a line; empty where its builder is not installed."""
