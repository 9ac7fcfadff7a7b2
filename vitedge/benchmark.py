# SPDX-License-Identifier: Apache-2.0
"""What `bench` was told to measure, as subjects of `vitedge.latency`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from vitedge import latency, registry
from vitedge.export.formats import FORMATS, of_file
from vitedge.files.bundle import MANIFEST, add_latency, read_manifest
from vitedge.latency import Rule, Subject
from vitedge.records import BenchReport

REFERENCE = "vitedge.models.reference:measured"
"""What the process that measures PyTorch calls for a checkpoint."""


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
        subjects: bundles (every artifact of which a runtime is to be had), ``.onnx`` files, and checkpoints, which run
            as PyTorch eager.
        device: a name of `vitedge.registry.DEVICES`.
        threads: processor threads; None is all physical cores, the same for every runtime.
        image_size: height and width for the checkpoints; an artifact has its own.
        rule: how long; None is the rule of a result to be published.
        progress: is told what begins.

    Raises:
        UserError: a subject is not there or cannot be read.
        MissingBackend: nothing of a bundle runs on this machine.
        DeviceFailed: a process died, hung or failed.
    """
    chosen = [entry for subject in subjects for entry in _subjects(subject, threads, image_size)]
    report = latency.bench(_told_apart(chosen), rule, device, progress)
    if len(subjects) == 1 and _is_bundle(Path(subjects[0])):
        add_latency(Path(subjects[0]), report)
    return report


def _subjects(text: str, threads: int | None, image_size: tuple[int, int] | None) -> Iterable[Subject]:
    path = Path(text)
    if _is_bundle(path):
        runtimes = {artifact.path: FORMATS[artifact.format].runtimes[-1] for artifact in read_manifest(path).artifacts}
        if not any(registry.works_here(registry.RUNTIMES, runtime) for runtime in runtimes.values()):
            for runtime in runtimes.values():
                registry.load(registry.RUNTIMES, runtime)  # says where it does work
        for name, runtime in runtimes.items():
            if registry.works_here(registry.RUNTIMES, runtime):
                yield Subject(f"{path.name}/{name}", runtime, str(path / name), threads=threads)
    elif (kind := of_file(path)) is not None:
        yield Subject(path.name, FORMATS[kind].runtimes[-1], text, threads=threads)
    else:
        options = {} if image_size is None else {"image_size": list(image_size)}
        yield Subject(path.name, "torch", text, threads=threads, factory=REFERENCE, options=options)


def _told_apart(subjects: Sequence[Subject]) -> list[Subject]:
    """Subjects of one name, such as ``model.onnx`` of two bundles, go by their whole paths."""
    count = Counter(subject.label for subject in subjects)
    return [replace(subject, label=subject.source) if count[subject.label] > 1 else subject for subject in subjects]


def _is_bundle(path: Path) -> bool:
    return (path / MANIFEST).is_file()
