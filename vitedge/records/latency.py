# SPDX-License-Identifier: Apache-2.0
"""Measurements of latency."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vitedge.records.device import DeviceWatch
from vitedge.records.parity import ParityReport
from vitedge.records.showing import Shown


@dataclass(frozen=True)
class Mode:
    """One of two modes of latency samples: a state that the device ran in, such as a clock or a kind of core."""

    center_ms: float
    """Median of the samples of this mode."""
    share: float
    """Fraction of the samples, outliers left aside."""


@dataclass(frozen=True)
class Quantiles:
    """Statistics of latency samples, in milliseconds. A percentile is None where there are too few samples for it."""

    minimum: float
    median: float
    mean: float
    p90: float
    p95: float | None
    p99: float | None
    cov: float
    """Coefficient of variation: standard deviation divided by the mean."""
    drift: float
    """Median of the last third of the samples divided by that of the first third, minus one."""
    std: float | None = None
    """Standard deviation; None of one sample, and in records of earlier versions, as the maximum is there."""
    maximum: float | None = None
    outliers: int = 0
    """Number of samples more than three interquartile ranges beyond the quartiles. All figures contain them."""
    modes: tuple[Mode, ...] = ()
    """The faster and the slower of two modes; empty where the samples show one."""
    resolution_ms: float = 0.0
    """Step of the clock, where so many samples are equal that it shows; else zero."""


@dataclass(frozen=True)
class LatencyReport:
    """The latency of one artifact in one runtime."""

    subject: str
    """Path or name of what was measured."""
    runtime: str
    """A key of `vitedge.registry.RUNTIMES`."""
    device: Mapping[str, Any]
    """Model, OS, processor, clocks, temperature, versions, threads, provider that really ran."""
    batch: int
    samples: int
    """Number of timed inferences, each of one batch."""
    load_ms: float
    first_ms: float
    """Time of the first inference after loading."""
    peak_memory_mb: float
    """Peak memory of the process that ran it, libraries included, in 10^6 bytes."""
    file_size: int
    """Bytes on disk."""
    quantiles: Quantiles
    stable: bool
    """False where the spread did not become steady during warm-up, or the drift exceeds 3 %."""
    raw_ms: tuple[float, ...] = ()
    """All samples in the order of measurement."""
    where: str = "local"
    """The device as users write it, such as ``ssh:orin``."""
    measured: str = ""
    """When it ended, UTC, as ISO 8601 writes it."""
    watch: DeviceWatch | None = None
    """Clocks, temperatures, power and events of the device in the time of the samples; None where nothing was read."""
    typical_ms: tuple[float, float, float] | None = None
    """Lower bound, estimate and upper bound of the median of a round, in milliseconds: a 95 % bootstrap interval; None
    in records of earlier versions."""


@dataclass(frozen=True)
class LatencyRatio:
    """The ratio of two latencies, measured in turn and in separate processes."""

    subject: str
    baseline: str
    ratio: float
    """Typical ratio of the medians of subject and baseline within a round; below one is faster than the baseline."""
    low: float
    high: float
    """Bounds of the 95 % bootstrap interval."""
    verdict: str
    """``faster``, ``slower``, ``no difference``, or ``no conclusion`` where the measurement allows none."""
    reason: str = ""
    """Reason why the samples allow no conclusion, a phrase, or empty."""
    where: str = "local"
    """The device that both were measured on."""


@dataclass(frozen=True)
class SpeedComparison:
    """The latency of a quantized file beside float files of the same export, measured in turn on one machine."""

    text: str
    """The result in one line."""
    ratios: tuple[LatencyRatio, ...] = ()
    """Quantized over fp32, and quantized over fp16."""
    milliseconds: Mapping[str, float] = field(default_factory=dict)
    """Precision to the median time of one inference."""
    unfused: tuple[str, ...] = ()
    """Quantized operations that ONNX Runtime computes in float nevertheless, as ``MODULE: OPERATION``."""


@dataclass(frozen=True, repr=False)
class BenchReport(Shown):
    """The latencies of all subjects of one `vitedge.bench`, and their ratios to the first."""

    reports: tuple[LatencyReport, ...]
    ratios: tuple[LatencyRatio, ...] = ()
    """Of every other subject to the first, or of every two where that was asked for."""
    inconclusive: str = ""
    """Reason why no conclusion is drawn from the times, one sentence, or empty."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Name of each artifact of a bundle that was not measured, to the reason."""
    parity: tuple[ParityReport, ...] = ()
    """The artifacts of bundles against their reference outputs, as other devices than this machine compute them."""
    failed: Mapping[str, str] = field(default_factory=dict)
    """Device to what failed there, one sentence; the reports are those of the other devices."""
    notes: tuple[str, ...] = ()
    """What has to be known to read the times, a sentence each."""
    asked: Mapping[str, Any] = field(default_factory=dict)
    """What was asked for: the subjects with their hashes, threads and durations. A saved run of the same goes on."""

    @property
    def passed(self) -> bool:
        """Whether every artifact computes on every device what its reference computes."""
        return all(report.passed for report in self.parity)
