# SPDX-License-Identifier: Apache-2.0
"""The records that stages take and return: the one vocabulary of the package.

Frozen dataclasses, whose only behaviour is that results show themselves; `vitedge.files.plain` turns them into plain
JSON values and back. Nothing here imports a framework, so a bundle can be read where PyTorch is not installed.
"""

from vitedge.records.bundle import Artifact, Manifest, TensorSpec, Validation
from vitedge.records.device import DeviceWatch, Spread
from vitedge.records.latency import BenchReport, LatencyRatio, LatencyReport, Mode, Quantiles, SpeedComparison
from vitedge.records.model import BlockWidths, CheckpointIdentity, ModelSpec, Origin, Preprocessing, Step
from vitedge.records.parity import (
    Finding,
    OutputParity,
    OverflowReport,
    ParityReport,
    StructureReport,
    Tolerance,
    ValueRange,
)
from vitedge.records.showing import Shown

__all__ = [
    "Artifact",
    "BenchReport",
    "BlockWidths",
    "CheckpointIdentity",
    "DeviceWatch",
    "Finding",
    "LatencyRatio",
    "LatencyReport",
    "Manifest",
    "Mode",
    "ModelSpec",
    "Origin",
    "OutputParity",
    "OverflowReport",
    "ParityReport",
    "Preprocessing",
    "Quantiles",
    "Shown",
    "SpeedComparison",
    "Spread",
    "Step",
    "StructureReport",
    "TensorSpec",
    "Tolerance",
    "Validation",
    "ValueRange",
]
