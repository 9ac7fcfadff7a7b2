# SPDX-License-Identifier: Apache-2.0
"""What `evaluate` returns: the records of accuracy on labelled images.

Frozen dataclasses without behaviour, as those of `vitedge.records`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Proportion:
    """How many of the images have a property, and what that says of all images like them."""

    count: int
    total: int
    share: float
    low: float
    high: float
    """Bounds of the 95 % Wilson interval."""


@dataclass(frozen=True)
class SubjectAccuracy:
    """One checkpoint or artifact on all images."""

    subject: str
    source: str
    """The path, or the name on the hub."""
    runtime: str
    top1: Proportion
    top5: Proportion | None
    """None where the model has no more than five classes."""
    agreement: Proportion | None
    """Images with the reference's top-1 class; None without a reference, and of the reference itself."""
    not_finite: int = 0
    """Images whose scores hold NaN or infinity: they count as wrong."""
    note: str = ""
    """What the figures do not show, one sentence, or empty."""


@dataclass(frozen=True)
class PairedAccuracy:
    """Two subjects on the same images, by top-1."""

    subject: str
    baseline: str
    lost: int
    """Images that the baseline classifies correctly and the subject does not."""
    gained: int
    """The other way round."""
    drop_points: float
    """Top-1 of the baseline minus that of the subject, in percentage points."""
    p_value: float
    """Of the exact McNemar test: how likely such a split or a more uneven one is where neither is better."""
    lost_images: tuple[str, ...] = ()
    """Names of the first of them."""
    gained_images: tuple[str, ...] = ()


@dataclass(frozen=True)
class Evaluation:
    """The answer of `evaluate`."""

    image_source: str
    images: int
    """How many were classified, by every subject the same."""
    sha256: str
    """Of the images as the first subject's preprocessing leaves them, so that two evaluations can be compared."""
    classes: int
    """Of the model."""
    classes_seen: int
    """How many of them have images."""
    subjects: tuple[SubjectAccuracy, ...]
    """The reference first, where there is one."""
    comparisons: tuple[PairedAccuracy, ...]
    """Every subject against the first."""
    passed: bool
    reason: str = ""
    """Which subject lost more than was allowed, or empty."""
    max_drop: float | None = None
    """In percentage points."""
    reference: str | None = None
    """The checkpoint that agreement is with."""
    skipped: Mapping[str, str] = field(default_factory=dict)
    """Name of an image that could not be read, to the reason."""
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
