# SPDX-License-Identifier: Apache-2.0
"""The records of pruning. Frozen dataclasses without behaviour; they go into the metadata of the pruned file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class PartRecord:
    """Units of one part, and the refit of the layer behind them."""

    part: str
    """Name of the module, such as ``blocks.0.mlp``."""
    kind: str
    """``heads``, ``mlp`` or ``expansion``."""
    units: int
    kept: int
    error_before: float | None = None
    """Squared error of the layer behind them relative to the power of its output, with the old weights; None where it
    was not refitted."""
    error_after: float | None = None
    """The same with the refitted weights, on the calibration images."""
    rank: int | None = None
    """Directions of the layer's inputs that the calibration images show."""
    inputs: int | None = None
    """Inputs of the layer that are left."""


@dataclass(frozen=True)
class Structured:
    """Heads and units that were taken away."""

    criterion: str
    parts: tuple[PartRecord, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recovery:
    """What a pruned model learned from the dense one, on images without labels."""

    images: int
    """Number of images that it learned from."""
    image_source: str
    """Folder, list or array, or ``synthetic, seed N``."""
    held_out: int
    """Number of further images, on which the best weights were chosen."""
    epochs: int
    steps: int
    """Steps of the optimizer."""
    learning_rate: float
    """The highest one, after the warm-up."""
    losses: tuple[float, ...]
    """The loss while learning, the mean of equal parts of the steps, oldest first."""
    before: float
    """Loss on the images that were held out, before the first step."""
    after: float
    """The same, of the weights that were kept; never above ``before``."""
    best_step: int
    """The step after which the weights were kept; 0: they are as they were before."""
    masked: int
    """Number of layers whose zeros stayed zeros."""
    seconds: float
    """Wall time, that of runs that were interrupted included."""
    device: str
    """``cpu``, or the name of the GPU."""
    note: str = ""
    """What went wrong, one sentence, or empty."""


@dataclass(frozen=True)
class Distance:
    """How far the pruned model is from the dense one, on images."""

    images: int
    image_source: str
    sqnr_db: float
    """Centred SQNR of the outputs, in dB."""
    agreement: float | None
    """Share of images with the dense model's top-1 class; None without classes."""


@dataclass(frozen=True)
class PrunedPoint:
    """One of the models that were looked at, or the dense one."""

    name: str
    macs: float
    """Multiply-accumulates, relative to the dense model."""
    sqnr_db: float | None
    """Centred SQNR against the dense model in dB; None for the dense model itself."""
    top1: float | None = None
    """Share of correct images of ``--eval``; None where it was not counted."""
    milliseconds: float | None = None
    """Median latency where it was measured."""


@dataclass(frozen=True)
class PruningRecord:
    """Everything that pruning did to a model."""

    images: int
    """Calibration images."""
    image_source: str
    gmacs: tuple[float, float]
    """Multiply-accumulates of one image in 10^9, before and after."""
    parameters: tuple[int, int]
    """Before and after."""
    structured: Structured | None
    recovery: Recovery | None
    distance: Distance
    """To the dense model, on the calibration images."""
    frontier: tuple[PrunedPoint, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Name of each stage to its wall time."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class PruningResult:
    """The result of `vitedge.prune`."""

    path: str
    """The file that was written."""
    size: int
    """Bytes."""
    variant: str
    record: PruningRecord
    failed: str = ""
    """The budget that was exceeded, and by how much, or empty."""
