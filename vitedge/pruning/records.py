# SPDX-License-Identifier: Apache-2.0
"""The records of pruning. Frozen dataclasses without behaviour; they go into the metadata of the pruned file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vitedge.records.showing import Shown


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
class SparseLayer:
    """One layer of a transformer block, and the weights of it that are zero."""

    name: str
    """Name of the module, such as ``blocks.0.attn.qkv``."""
    shape: tuple[int, ...]
    """Shape of the weight, ``(outputs, inputs, …)``."""
    pattern: str
    """``2:4``, or the fraction of zeros that was asked for, such as ``0.5``; empty where the layer stayed dense."""
    zeros: float
    """Share of the weights that are zero, 0 to 1."""
    tensor_cores: tuple[str, ...]
    """Number types in which sparse tensor cores take the layer: of ``fp16`` and ``int8``."""
    reason: str = ""
    """Why they do not take it, or not in both types; empty where they do."""
    error: float = 0.0
    """Norm of what changed in the layer's output on the calibration images, over the norm of the dense layer's output
    less its mean: of the same input, bias included."""


@dataclass(frozen=True)
class Sparsification:
    """The layers whose weights were made sparse."""

    pattern: str
    """``2:4``, or the fraction of zeros."""
    selection: str
    """A value of `vitedge.pruning.recipe.Selection`."""
    images: int
    """Calibration images."""
    layers: tuple[SparseLayer, ...]
    """All linear layers of the transformer blocks, in order of execution."""
    note: str
    """What gains from these zeros and what does not, one sentence."""


@dataclass(frozen=True)
class Merging:
    """Tokens that merge, for every block that runs over tokens, in order of execution."""

    schedule: tuple[int, ...]
    """Tokens that a block merges into others."""
    tokens: tuple[int, ...]
    """Tokens after the block's merging, prefix tokens included; each stage of PiT starts with all of its own."""


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
    sparsification: Sparsification | None
    merging: Merging | None
    recovery: Recovery | None
    distance: Distance
    """To the dense model, on images that nothing was fitted to, where there are such."""
    frontier: tuple[PrunedPoint, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Name of each stage to its wall time."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, repr=False)
class PruningResult(Shown):
    """The result of `vitedge.prune`."""

    path: str
    """The file that was written."""
    size: int
    """Bytes."""
    variant: str
    record: PruningRecord
    failed: str = ""
    """The budget that was exceeded, and by how much, or empty."""

    def __fspath__(self) -> str:
        """Returns the path of the file, for everything that takes one."""
        return self.path
