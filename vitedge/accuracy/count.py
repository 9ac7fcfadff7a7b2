# SPDX-License-Identifier: Apache-2.0
"""Classifies labelled images with several subjects, batch by batch, and counts the correct ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vitedge.accuracy.metrics import mcnemar, proportion, ranks
from vitedge.accuracy.records import PairedAccuracy, SubjectAccuracy
from vitedge.errors import BadImages
from vitedge.images.labelled import LabelledSet
from vitedge.images.stream import ImageStream
from vitedge.parity.metrics import agrees, finite
from vitedge.progress import stage
from vitedge.records import ModelSpec

Scores = NDArray[np.floating[Any]]

_BATCH = 32
"""Images in memory at once, for each preprocessing."""
_TOP = 5
_NAMED = 20
"""Most names that are kept of lost, and of gained, images."""


@dataclass(frozen=True)
class Predictor:
    """A loaded checkpoint or artifact that scores images."""

    label: str
    source: str
    runtime: str
    spec: ModelSpec
    """The preprocessing, and the names of the classes."""
    classes: int
    scores: Callable[[NDArray[np.uint8]], Scores]
    """Class scores ``(images, classes)`` of images ``(images, channels, height, width)``, RGB or grey, 0 to 255."""
    note: str = ""
    """A caveat on its figures, one sentence, or empty."""


class _Outcome(NamedTuple):
    """The result of one predictor on one batch."""

    right: NDArray[np.bool_]
    scores: NDArray[Any]


class Count:
    """Counts of correct images so far, and the names of a few others; its size does not grow with the set."""

    def __init__(self, rows: Sequence[Predictor], *, with_reference: bool) -> None:
        self.predictors = tuple(rows)
        self.images = 0
        self.seen: set[int] = set()
        self._with_reference = with_reference
        self._top1, self._top5, self._same, self._broken, self._lost, self._gained = np.zeros((6, len(rows)), np.int64)
        self._chosen: list[set[int]] = [set() for _ in rows]
        self._lost_names: list[list[str]] = [[] for _ in rows]
        self._gained_names: list[list[str]] = [[] for _ in rows]

    def add(self, pixels: Sequence[NDArray[np.uint8]], labels: NDArray[np.int64], names: Sequence[str]) -> None:
        """Classifies one batch.

        Args:
            pixels: for each predictor the images as its preprocessing leaves them.
            labels: the true classes, ``(images,)``.
            names: the names of the images.
        """
        first: _Outcome | None = None
        for index, (row, batch) in enumerate(zip(self.predictors, pixels, strict=True)):
            scores = row.scores(batch)
            places = ranks(scores, labels)
            outcome = _Outcome(places == 0, scores)
            self._top1[index] += outcome.right.sum()
            self._top5[index] += (places < min(_TOP, row.classes)).sum()
            self._broken[index] += (~finite(scores)).sum()
            self._chosen[index].update(scores.argmax(axis=1).tolist())
            first = first or outcome
            self._compare(index, first, outcome, names)
        self.images += len(labels)
        self.seen.update(labels.tolist())

    def _compare(self, index: int, first: _Outcome, outcome: _Outcome, names: Sequence[str]) -> None:
        self._same[index] += agrees(first.scores, outcome.scores).sum()
        for counts, kept, hits in (
            (self._lost, self._lost_names, first.right & ~outcome.right),
            (self._gained, self._gained_names, outcome.right & ~first.right),
        ):
            counts[index] += hits.sum()
            room = _NAMED - len(kept[index])
            kept[index].extend(names[place] for place in np.flatnonzero(hits)[:room])

    def constant(self) -> tuple[str, ...]:
        """Returns the labels of the predictors that choose one class for all of several images."""
        if self.images < 2:
            return ()
        return tuple(row.label for row, seen in zip(self.predictors, self._chosen, strict=True) if len(seen) == 1)

    def rows(self) -> tuple[SubjectAccuracy, ...]:
        """Returns the accuracy of every predictor."""
        return tuple(
            SubjectAccuracy(
                subject=row.label,
                source=row.source,
                runtime=row.runtime,
                top1=proportion(int(self._top1[index]), self.images),
                top5=proportion(int(self._top5[index]), self.images) if row.classes > _TOP else None,
                agreement=proportion(int(self._same[index]), self.images) if index and self._with_reference else None,
                not_finite=int(self._broken[index]),
                note=row.note,
            )
            for index, row in enumerate(self.predictors)
        )

    def comparisons(self) -> tuple[PairedAccuracy, ...]:
        """Returns every predictor but the first, compared with the first."""
        return tuple(
            PairedAccuracy(
                subject=row.label,
                baseline=self.predictors[0].label,
                lost=int(self._lost[index]),
                gained=int(self._gained[index]),
                drop_points=100 * int(self._lost[index] - self._gained[index]) / self.images,
                p_value=mcnemar(int(self._lost[index]), int(self._gained[index])),
                lost_images=tuple(self._lost_names[index]),
                gained_images=tuple(self._gained_names[index]),
            )
            for index, row in enumerate(self.predictors)
            if index
        )


def classify(count: Count, chosen: LabelledSet) -> tuple[ImageStream, ...]:
    """Classifies every image with every predictor; returns the streams, that of the first predictor first.

    Predictors that prepare images alike get the same arrays.
    """
    streams: dict[tuple[Any, ...], ImageStream] = {}
    for row in count.predictors:
        streams.setdefault(_geometry(row.spec), chosen.stream(row.spec))
    places = [list(streams).index(_geometry(row.spec)) for row in count.predictors]
    with stage(f"classifying {chosen.count} images of {chosen.available}") as classifying:
        classifying.count(chosen.count, unit="image")
        for batches in zip(*(stream.batches(_BATCH) for stream in streams.values()), strict=False):
            first, *others = streams.values()
            names = first.names[count.images :]
            if any(other.names[count.images :] != names for other in others):
                raise BadImages(f"{chosen.title}: some images can be prepared for some of the subjects only.")
            labels = np.asarray(first.labels[count.images :], np.int64)
            count.add([batches[place] for place in places], labels, names)
            classifying.advance(len(labels))
    return tuple(streams.values())


def count_top1(chosen: LabelledSet, spec: ModelSpec, scores: Callable[[NDArray[np.uint8]], Scores]) -> tuple[int, int]:
    """Returns how many labelled images get the highest score in their own class, and how many images there are.

    Args:
        chosen: the images.
        spec: gives their preprocessing.
        scores: class scores ``(images, classes)`` of images ``(images, channels, height, width)``, 0 to 255.

    Raises:
        BadImages: more than 5 % of them cannot be read.
    """
    stream = chosen.stream(spec)
    right = images = 0
    with stage("counting top-1") as counting:
        counting.count(stream.count, unit="image")
        for pixels in stream.batches(_BATCH):
            labels = np.asarray(stream.labels[images:], np.int64)
            right += int((ranks(scores(pixels), labels) == 0).sum())
            images += len(labels)
            counting.advance(len(labels))
    return right, images


def _geometry(spec: ModelSpec) -> tuple[Any, ...]:
    """Returns all settings that `vitedge.images.preprocess.prepare_image` depends on."""
    plain = replace(spec.preprocessing, mean=(), std=(), channel_order="rgb")
    # Only a border is filled with the mean.
    fill = (spec.preprocessing.mean, spec.preprocessing.channel_order) if plain.crop_mode == "border" else ()
    return spec.image_size, spec.in_channels, plain, fill
