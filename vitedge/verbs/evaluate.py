# SPDX-License-Identifier: Apache-2.0
"""The verb ``evaluate``: how many labelled images checkpoints and artifacts classify correctly."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from vitedge.accuracy.count import Count, Predictor, classify
from vitedge.accuracy.records import Evaluation, PairedAccuracy
from vitedge.checkpoints.assumptions import said
from vitedge.checkpoints.overrides import parse_overrides
from vitedge.devices.session import Session, connect
from vitedge.errors import BadRecipe
from vitedge.images.class_names import Classes, classes_of
from vitedge.images.label_files import labels_for
from vitedge.images.labelled import check_labelled, find_labelled
from vitedge.images.stream import tell_shortage
from vitedge.progress import Progress, reporting, stage
from vitedge.recipe import check_finite, check_image_size, check_whole
from vitedge.registry import LOCAL, check_device
from vitedge.verbs.subjects import Subject, Weights, checkpoint, find, opened, sizes

if TYPE_CHECKING:
    from vitedge.checkpoints.read import CheckpointSource


@dataclass(frozen=True)
class EvaluationRequest:
    """The labelled images, and what the subjects are compared with."""

    images: str
    """A labelled source, as `vitedge.images.labelled.find_labelled` takes it."""
    image_count: int | None = None
    """None takes all."""
    seed: int = 0
    against: CheckpointSource | None = None
    """The checkpoint that agreement is with."""
    max_drop: float | None = None
    """Percentage points of top-1 that a subject may lose against the reference, or else against the first subject."""
    weights: Weights = field(default_factory=Weights)
    device: str = LOCAL
    """Where artifacts run; checkpoints run here."""
    labels: str | tuple[str, ...] | None = None
    """A file with the names of the classes, as `vitedge.images.label_files` reads it, or the names; None takes those
    that the subjects tell."""

    def __post_init__(self) -> None:
        check_whole("--image-count", self.image_count, 1)
        check_whole("--seed", self.seed, 0)
        check_finite("--max-drop, in percentage points,", self.max_drop, 0, 100)
        check_image_size(self.weights.image_size)
        check_device(self.device)


def evaluate(
    subjects: Sequence[CheckpointSource], request: EvaluationRequest, progress: Progress | None = None
) -> Evaluation:
    """Classifies labelled images, a batch at a time.

    Args:
        subjects: checkpoints, ``.onnx`` files, ``.mlpackage`` folders and bundles; or weights in memory.
        request: the images, and what the subjects are compared with.
        progress: as `vitedge.progress.reporting` takes it: who is told how far it is; None tells nobody.

    Raises:
        BadRecipe: no subject, subjects of different classes, or options that do not fit them.
        BadImages: nothing labelled is there, labels do not fit the classes, or more than 5 % of the images are corrupt.
        UserError: a subject cannot be read.
        MissingBackend: what a subject runs in is not installed, here or on the device.
        DeviceFailed: the device failed, or is out of reach.
    """
    with reporting(progress), stage("evaluate", whole=True):
        return _evaluated(subjects, request)


def _evaluated(subjects: Sequence[CheckpointSource], request: EvaluationRequest) -> Evaluation:
    start = time.perf_counter()
    check_labelled(request.images)
    left_out: dict[str, str] = {}
    found = find(subjects, left_out)
    _check(found, request)
    with ExitStack() as stack:
        session = None if request.device == LOCAL else stack.enter_context(connect(request.device))
        rows = list(_rows(found, request, stack, session))
        classes = common_classes(rows, request.weights.overrides, request.labels)
        chosen = find_labelled(
            request.images, classes, request.image_count, request.seed, channels=rows[0].spec.in_channels
        )
        count = Count(rows, with_reference=request.against is not None)
        streams = classify(count, chosen)
    stream = streams[0]
    comparisons = count.comparisons()
    reason = _degenerate(count, request) or _missed(comparisons, request.max_drop, count.images)
    shortage = tell_shortage(request.image_count or 0, count.images, chosen.title)
    notes = [
        *(note for note in (chosen.note, shortage) if note),
        *(f"{name} was left out: {reason}" for name, reason in left_out.items()),
        *_differences(rows),
        *_telling_little(count, classes.count),
    ]
    return Evaluation(
        image_source=chosen.title,
        images=count.images,
        sha256=stream.sha256,
        classes=classes.count,
        classes_seen=len(count.seen),
        subjects=count.rows(),
        comparisons=comparisons,
        passed=not reason,
        reason=reason,
        max_drop=request.max_drop,
        reference=None if request.against is None else str(request.against),
        skipped=dict(stream.skipped),
        notes=tuple(notes),
        guesses=said(rows[1 if request.against is not None else 0].spec),
        seconds=time.perf_counter() - start,
    )


def _check(found: Sequence[Subject], request: EvaluationRequest) -> None:
    if not found:
        raise BadRecipe("Nothing was named to evaluate: give a checkpoint, an artifact or a bundle.")
    _refuse_idle(found, request)
    if request.max_drop is None:
        return
    if request.against is None and len(found) == 1:
        raise BadRecipe("--max-drop compares: add --against CHECKPOINT, or name the subject to compare with first.")


def _refuse_idle(found: Sequence[Subject], request: EvaluationRequest) -> None:
    """Refuses an option about checkpoints without one, and a device for what runs here."""
    weights, first = request.weights, str(found[0].source)
    if request.against is None and not any(subject.kind == "checkpoint" for subject in found):
        about = {
            "--image-size": weights.image_size is not None,
            "--weights": weights.name is not None,
            "--set": bool(set(weights.overrides) - {"labels"}),
        }
        for option in (name for name, given in about.items() if given):
            raise BadRecipe(
                f"{option} is for checkpoints, and {first} is none: leave it out, or add --against CHECKPOINT."
            )
    if request.device != LOCAL and not any(subject.artifact for subject in found):
        raise BadRecipe(
            f"--device runs artifacts, and {first} is none, so it runs here: leave it out, or evaluate the bundle "
            f"that {shlex.join(['vitedge', 'export', first, '-o', 'BUNDLE'])} writes."
        )


def _rows(
    found: Sequence[Subject],
    request: EvaluationRequest,
    stack: ExitStack,
    session: Session | None,
) -> Iterator[Predictor]:
    """The reference, if there is one, and all subjects, loaded."""
    borrowed = None
    if request.against is not None:
        with stage(f"loading {request.against}"):
            reference = stack.enter_context(opened(checkpoint(request.against), _as_exported(found, request.weights)))
        borrowed = reference.spec
        yield replace(reference, label=f"{reference.label} (reference)")
    for subject in found:
        with stage(f"loading {subject.source}"):
            predictor = stack.enter_context(opened(subject, request.weights, borrowed, session))
        yield predictor


def _as_exported(found: Sequence[Subject], weights: Weights) -> Weights:
    """The reference as the artifacts were made of it: their image size, and of a bundle the weights and given facts.

    Raises:
        BadRecipe: artifacts of several image sizes, for which one reference will not do.
    """
    edges = sizes(found)
    if len(edges) > 1 and weights.image_size is None:
        named = " and ".join(f"{height}x{width}" for height, width in edges)
        raise BadRecipe(f"The artifacts take images of {named} pixels: compare them one by one, or add --image-size.")
    recipe = next((subject.recipe for subject in found if subject.recipe), None)
    size = weights.image_size or (edges[0] if edges else None)
    if recipe is None:
        return replace(weights, image_size=size)
    overrides = {**recipe.overrides, **weights.overrides}
    if recipe.labels is not None:  # the bundle keeps the names, and the file may be gone
        overrides.setdefault("labels", next(subject.spec.labels for subject in found if subject.spec is not None))
    return Weights(weights.name or recipe.weights, overrides, size)


def common_classes(
    rows: Sequence[Predictor], overrides: Mapping[str, Any], labels: str | Sequence[str] | None = None
) -> Classes:
    """The classes that all rows tell apart.

    Raises:
        BadRecipe: different numbers of classes, or different names.
    """
    first = rows[0]
    given = labels or parse_overrides(overrides).get("labels", ())
    named = [row for row in rows if row.spec.labels]
    for row in rows[1:]:
        if row.classes != first.classes:
            raise BadRecipe(
                f"{row.label} has {row.classes} classes and {first.label} {first.classes}: they cannot be compared by "
                "the same labels."
            )
    for row in named[1:]:
        if row.spec.labels != named[0].spec.labels and not given:
            raise BadRecipe(f"{row.label} and {named[0].label} call their classes by other names: evaluate them alone.")
    if given:
        return Classes(first.classes, labels_for(given, first.classes), given=True)
    told = classes_of(named[0].spec) if named else Classes(first.classes)
    return told if len(told.names) == told.count == first.classes else Classes(first.classes)


def _degenerate(count: Count, request: EvaluationRequest) -> str:
    """Returns that a loss of top-1 cannot be checked, as a phrase, where one is limited; else nothing."""
    if request.max_drop is None:
        return ""
    first, broken = count.predictors[0].label, count.rows()[0].not_finite
    if broken == count.images:
        return f"{first} is degenerate (its scores hold NaN or infinity), so no loss of top-1 can be checked"
    if first not in count.constant():
        return ""
    return f"{first} is degenerate (it chooses the same class for every image), so no loss of top-1 can be checked"


def _telling_little(count: Count, classes: int) -> Iterator[str]:
    """Yields why the figures say little about the subjects."""
    if classes == 1:
        yield "the model has a single class, which is the top-1 of every image"
    elif count.images > 1:
        yield from (f"{name} chooses the same class for every image" for name in count.constant())
    if len(count.seen) == 1 and classes > 1:
        yield "all images are of one class, so top-1 says nothing about the others"


def _missed(comparisons: Sequence[PairedAccuracy], max_drop: float | None, images: int) -> str:
    """The subjects that lost more than was allowed, in one sentence, or nothing."""
    if max_drop is None:
        return ""
    # Whole images are compared: 0.7 points of 1000 images are 7, whatever a float makes of it.
    late = [row for row in comparisons if row.lost - row.gained > max_drop * images / 100 + 1e-9 * images]
    return "; ".join(
        f"{row.subject} loses {row.drop_points:.2f} points of top-1 against {row.baseline}; {max_drop:g} were allowed"
        for row in late
    )


def _differences(rows: Sequence[Predictor]) -> Iterator[str]:
    """Yields why two subjects see different pixels of the same image."""
    first = rows[0]
    for row in rows[1:]:
        if row.spec.image_size != first.spec.image_size or row.spec.preprocessing != first.spec.preprocessing:
            yield f"{row.label} and {first.label} prepare images differently"
