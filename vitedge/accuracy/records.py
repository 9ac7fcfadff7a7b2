# SPDX-License-Identifier: Apache-2.0
"""The records that `vitedge.evaluate` returns: accuracy on labelled images.

Frozen dataclasses without behaviour, as those of `vitedge.records`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vitedge.records.showing import Shown


@dataclass(frozen=True)
class Proportion:
    """The share of images with a property, and its 95 % confidence interval."""

    count: int
    """Number of images with the property."""
    total: int
    """Number of all images."""
    share: float
    low: float
    """Lower bound of the 95 % Wilson score interval."""
    high: float
    """Upper bound."""


@dataclass(frozen=True)
class SubjectAccuracy:
    """The accuracy of one checkpoint or artifact on all images."""

    subject: str
    """Label in tables."""
    source: str
    """The path, or the name on the hub."""
    runtime: str
    """A key of `vitedge.registry.RUNTIMES`."""
    top1: Proportion
    """Images whose highest score is that of their own class."""
    top5: Proportion | None
    """Images whose own class has one of the five highest scores; None for a model of at most five classes."""
    agreement: Proportion | None
    """Images with the reference's top-1 class; None for the reference itself, or without one."""
    not_finite: int = 0
    """Images whose scores hold NaN or infinity: they count as wrong."""
    note: str = ""
    """A caveat on the figures, one sentence, or empty."""


@dataclass(frozen=True)
class PairedAccuracy:
    """The comparison of two subjects' top-1 on the same images."""

    subject: str
    baseline: str
    lost: int
    """Images that the baseline classifies correctly and the subject does not."""
    gained: int
    """Images that the subject classifies correctly and the baseline does not."""
    drop_points: float
    """Top-1 of the baseline minus that of the subject, in percentage points."""
    p_value: float
    """Two-sided p-value of the exact McNemar test of the hypothesis that neither is better."""
    lost_images: tuple[str, ...] = ()
    """Names of the first lost images."""
    gained_images: tuple[str, ...] = ()
    """Names of the first gained images."""


@dataclass(frozen=True, repr=False)
class Evaluation(Shown):
    """The result of `vitedge.evaluate`."""

    image_source: str
    """The path, and the number of its images that were taken."""
    images: int
    """Number of images classified, the same for every subject."""
    sha256: str
    """SHA-256 of the images as the first subject's preprocessing leaves them: equal in comparable evaluations."""
    classes: int
    """Number of the model's classes."""
    classes_seen: int
    """Number of classes that have images."""
    subjects: tuple[SubjectAccuracy, ...]
    """All subjects, the reference first where there is one."""
    comparisons: tuple[PairedAccuracy, ...]
    """Every subject compared with the first."""
    passed: bool
    reason: str = ""
    """The subject whose top-1 dropped more than is allowed, or empty."""
    max_drop: float | None = None
    """Allowed drop of top-1 in percentage points; None where none was set."""
    reference: str | None = None
    """The checkpoint whose top-1 classes agreement is counted with."""
    skipped: Mapping[str, str] = field(default_factory=dict)
    """Name of an image that could not be read, to the reason."""
    notes: tuple[str, ...] = ()
    guesses: tuple[str, ...] = ()
    """Options that say the guessed facts of the first checkpoint, such as ``--set heads=3``, which an export needs."""
    seconds: float = 0.0
