# SPDX-License-Identifier: Apache-2.0
"""The verb ``bench``: bundles, artifacts and checkpoints, measured in turn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from vitedge.devices.session import Session, connect
from vitedge.errors import MissingBackend
from vitedge.export.formats import FORMATS, of_file
from vitedge.files.bundle import MANIFEST, add_latency, read_manifest
from vitedge.latency.interleave import measure_in_turn
from vitedge.latency.model import MeasuredModel
from vitedge.latency.sampling import Rule
from vitedge.recipe import check_image_size, check_whole
from vitedge.records import BenchReport

REFERENCE = "vitedge.models.reference:measured"
"""The function that the process that measures PyTorch calls for a checkpoint."""


def bench(
    subjects: Sequence[str],
    *,
    device: str = "local",
    threads: int | None = None,
    image_size: tuple[int, int] | None = None,
    rule: Rule | None = None,
    progress: Callable[[str], None] = lambda _text: None,
) -> BenchReport:
    """Measures bundles, artifacts and checkpoints in turn, each in a process of its own, and each against the first.

    Args:
        subjects: bundles (every artifact that the device has a runtime for), ``.onnx`` files, and checkpoints, which
            run as PyTorch eager.
        device: a key of `vitedge.registry.DEVICES`, with an address after a colon where that kind has one.
        threads: processor threads; None is all physical cores of the device, the same for every runtime.
        image_size: height and width for the checkpoints; an artifact has its own.
        rule: how long; None is the rule of a result to be published.
        progress: is told what begins.

    Raises:
        BadRecipe: a number of threads or of pixels below one.
        UserError: a subject is not there or cannot be read.
        MissingBackend: nothing of a bundle runs on the device.
        DeviceFailed: a process died, hung or failed, or the device cannot be reached.
    """
    check_whole("--threads", threads, 1)
    check_image_size(image_size)
    left_out: dict[str, str] = {}
    with connect(device) as session:
        models = [
            replace(model, threads=threads)
            for subject in subjects
            for model in _models(Path(subject), subject, session, image_size, left_out)
        ]
        report = replace(measure_in_turn(_told_apart(models), session, rule, progress), left_out=left_out)
    if len(subjects) == 1 and _is_bundle(Path(subjects[0])):
        add_latency(Path(subjects[0]), report)
    return report


def _models(
    path: Path, source: str, session: Session, image_size: tuple[int, int] | None, left_out: dict[str, str]
) -> Iterable[MeasuredModel]:
    """Yields the models that are measured of one subject."""
    if _is_bundle(path):
        yield from _of_bundle(path, session, left_out)
    elif (kind := of_file(path)) is not None:
        yield MeasuredModel(path.name, FORMATS[kind].runtimes[-1], source)
    else:
        options = {} if image_size is None else {"image_size": list(image_size)}
        yield MeasuredModel(path.name, "torch", source, factory=REFERENCE, options=options)


def _of_bundle(path: Path, session: Session, left_out: dict[str, str]) -> Iterable[MeasuredModel]:
    """Every artifact that the device can run; the others go into ``left_out``, with the reason.

    Raises:
        MissingBackend: there is none.
    """
    runtimes = {artifact.path: FORMATS[artifact.format].runtimes[-1] for artifact in read_manifest(path).artifacts}
    refusals = {name: session.refusal(runtime) for name, runtime in runtimes.items()}
    if all(refusals.values()):
        raise MissingBackend(" ".join(dict.fromkeys(refusals.values())))
    for name, runtime in runtimes.items():
        if refusals[name]:
            left_out[f"{path.name}/{name}"] = refusals[name]
        else:
            yield MeasuredModel(f"{path.name}/{name}", runtime, str(path / name))


def _told_apart(models: Sequence[MeasuredModel]) -> list[MeasuredModel]:
    """Models of one name, such as ``model.onnx`` of two bundles, go by their whole paths."""
    count = Counter(model.label for model in models)
    return [replace(model, label=model.source) if count[model.label] > 1 else model for model in models]


def _is_bundle(path: Path) -> bool:
    return (path / MANIFEST).is_file()
