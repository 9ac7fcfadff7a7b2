# SPDX-License-Identifier: Apache-2.0
"""The range watch over one Core ML package and the images of its reference, and lowering by what it sees."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vitedge import registry
from vitedge.errors import CheckFailed
from vitedge.parity.artifact import Evidence, feed
from vitedge.records import Artifact, StressReport

_ROUNDS = 4
"""How often a package is lowered; what overflows is all seen in the first, as the watch computes in float32."""
_VERDICTS = {"overflow": "overflows", "infinite": "is infinite", "NaN": "is not a number"}
_NAMED = 6
"""Modules that a note names."""


def stress(path: Path, artifact: Artifact, evidence: Evidence) -> StressReport:
    """How near the values of a package come to what float16 can hold; see `vitedge.mlprogram.overflow.stress`.

    Args:
        path: the ``.mlpackage`` folder.
        artifact: its input.
        evidence: the images.

    Raises:
        MissingBackend: PyTorch or coremltools is not installed.
        UserError: the package cannot be computed.
    """
    registry.load(registry.RUNTIMES, "mlprogram")
    from vitedge.mlprogram.overflow import stress as watch  # noqa: PLC0415  (PyTorch, which the line above asked for)

    return watch(path, _feeds(artifact, evidence), artifact.path)


def _feeds(artifact: Artifact, evidence: Evidence) -> Iterator[dict[str, np.ndarray[Any, Any]]]:
    """The images in batches that the package takes; repetitions fill the last."""
    image, images = artifact.inputs[0], evidence.data.images
    size = image.shape[0] if isinstance(image.shape[0], int) else 1
    for start in range(0, len(images), size):
        batch = images[np.arange(start, start + size) % len(images)]
        yield {image.name: feed(batch, image, evidence.spec)}


def lower_in_range(
    lower: Callable[[tuple[str, ...]], Artifact], path: Path, evidence: Evidence, islands: tuple[str, ...] = ()
) -> Artifact:
    """Lowers to half precision until nothing overflows, with more modules in float32 each time.

    What is chosen on the captured graph does not foresee what a conversion makes of it: here the package itself is
    watched. One that stays in range is lowered once.

    Args:
        lower: writes the package with those modules in float32.
        path: where it writes it.
        evidence: a few images.
        islands: modules to begin with.

    Returns:
        The artifact, with a note of the modules that were added.

    Raises:
        CheckFailed: names the operation and the module that overflow all the same.
    """
    added: tuple[str, ...] = ()
    for _ in range(_ROUNDS):
        shutil.rmtree(path, ignore_errors=True)  # of the round before
        single = (*islands, *added)
        artifact = lower(single)
        report = stress(path, artifact, evidence)
        missing = tuple(module for module in report.keep_fp32 if not _covers(single, module))
        if not missing:
            break
        added += missing
    if not report.passed:
        raise CheckFailed(_overflowing(report))
    return replace(artifact, notes=(*artifact.notes, *_notes(single[len(islands) :])))


def _covers(islands: tuple[str, ...], module: str) -> bool:
    return any(module == island or (island and module.startswith(f"{island}.")) for island in islands)


def _overflowing(report: StressReport) -> str:
    worst = report.ranges[0]
    size = "" if worst.magnitude is None else f" ({worst.magnitude:.4g}; float16 holds {report.limit:g})"
    return (
        f"{report.artifact} does not stay within float16: {worst.operation} of module {worst.module or '(root)'} "
        f"{_VERDICTS[worst.fault]}{size}, and float32 for the modules concerned does not mend it; "
        "use --precision fp32."
    )


def _notes(added: tuple[str, ...]) -> tuple[str, ...]:
    if not added:
        return ()
    named = ", ".join(module or "(root)" for module in added[:_NAMED])
    more = f" and {len(added) - _NAMED} more" if len(added) > _NAMED else ""
    return (f"{named}{more} stay in float32: the lowered program comes too near the largest value of float16 there",)
