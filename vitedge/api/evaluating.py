# SPDX-License-Identifier: Apache-2.0
"""The function `vitedge.evaluate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vitedge.accuracy.records import Evaluation
from vitedge.api.images import as_images
from vitedge.api.settings import combined, facts, size
from vitedge.api.sources import as_source, as_sources
from vitedge.progress import Progress
from vitedge.records import Preprocessing
from vitedge.verbs.evaluate import EvaluationRequest
from vitedge.verbs.evaluate import evaluate as run
from vitedge.verbs.subjects import Weights

if TYPE_CHECKING:
    from vitedge.api.images import Images
    from vitedge.api.sources import Model


def evaluate(
    subjects: Model | Sequence[Model],
    images: Images | EvaluationRequest,
    *,
    against: Model | None = None,
    image_count: int | None = None,
    normalized: bool = False,
    max_drop: float | None = None,
    image_size: int | tuple[int, int] | None = None,
    labels: Sequence[str] | Mapping[Any, Any] | None = None,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Counts how many labelled images are classified correctly, by all subjects on the same images.

    Args:
        subjects: one or several of: checkpoints, ``.onnx`` files, ``.mlpackage`` folders, ``.pt2`` files and bundles;
            modules in memory, state dicts, what `load`, `export` or `quantize` returned.
        images: class folders, a ``.csv`` of path and label, or an ``.npz`` of images and labels; an iterable of pairs
            of an image, as `export` takes it, and its class, or of batches of them; or an `EvaluationRequest` that also
            says what follows.
        against: the model that agreement is with.
        image_count: how many images, drawn evenly from the classes; the first so many of an iterator. None takes all.
        normalized: whether arrays are the model's input: of its size, and normalized with its mean and std.
        max_drop: percentage points of top-1 that may be lost against ``against``, or else against the first subject.
        image_size: height and width of checkpoints in pixels, one number for both; None is their own.
        labels: names of the classes, in their order or by their number.
        preprocessing: how images are prepared for checkpoints: a record, or a mapping of some of its fields.
        overrides: fields of `ModelSpec` or `Preprocessing` of checkpoints to the values that they really have.
        device: where artifacts run, such as ``ssh:HOST``.
        progress: who is told how far it is: such as ``print``, or a ``rich.progress.Progress``.

    Returns:
        Top-1, top-5 and agreement of every subject with 95 % intervals, and each compared with the first.

    Raises:
        BadRecipe: no subject, subjects of different classes, or options that do not fit them.
        BadImages: there are no labelled images, their labels do not fit, or more than 5 % of the images are corrupt.
        UserError: a subject cannot be read.
        MissingBackend: the runtime of a subject is not installed.

    Example:
        >>> found = vitedge.evaluate("bundle/model.onnx", "photos", against="mystery.pth", max_drop=1.0)
        >>> [(row.subject, row.top1.count, row.top1.total) for row in found.subjects]
        [('mystery.pth (reference)', 60, 60), ('model.onnx', 60, 60)]
        >>> found.passed
        True
    """
    stated, asked = facts(overrides, labels, preprocessing), images if isinstance(images, EvaluationRequest) else None
    own = asked.weights if asked is not None else Weights()
    weights = combined(Weights, own, {"overrides": stated, "image_size": size(image_size)})
    said: dict[str, Any] = {"image_count": image_count, "max_drop": max_drop, "device": device}
    if not isinstance(images, EvaluationRequest):
        drawn = (
            None if hasattr(images, "__len__") else image_count
        )  # all of what has a length: classes are drawn evenly
        said["images"] = as_images(images, drawn, 0, normalized=normalized, least=1)
    said["against"] = None if against is None else as_source(against, stated, weights.name)
    request = replace(combined(EvaluationRequest, asked, said), weights=weights)
    return run(as_sources(subjects, stated), request, progress)
