# SPDX-License-Identifier: Apache-2.0
"""Lowering to half precision until nothing of the lowered program overflows."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from vitedge.errors import CheckFailed
from vitedge.records import Artifact, OverflowReport

_ROUNDS = 4
"""Most lowerings of one package; the first usually shows every overflow, as the check computes in float32."""
_FAULTS = {"overflow": "overflows", "infinite": "is infinite", "NaN": "is not a number"}
_NAMED = 6
"""Modules that a note names."""


def lower_in_range(
    lower: Callable[[tuple[str, ...]], Artifact],
    path: Path,
    watch: Callable[[Artifact], OverflowReport],
    float32_modules: tuple[str, ...] = (),
) -> Artifact:
    """Lowers to half precision until nothing overflows, with more modules in float32 each time.

    What is chosen on the captured graph does not foresee what a conversion makes of it: here the package itself is
    watched. One that stays in range is lowered once.

    Args:
        lower: writes the package with those modules in float32.
        path: where it writes it.
        watch: runs it and reports the ranges of its values.
        float32_modules: modules to begin with.

    Returns:
        The artifact, with a note of the modules that were added.

    Raises:
        CheckFailed: names the operation and the module that overflow all the same.
    """
    added: tuple[str, ...] = ()
    for _ in range(_ROUNDS):
        shutil.rmtree(path, ignore_errors=True)  # of the round before
        kept = (*float32_modules, *added)
        artifact = lower(kept)
        report = watch(artifact)
        missing = tuple(module for module in report.keep_fp32 if not _covers(kept, module))
        if not missing:
            break
        added += missing
    if not report.passed:
        raise CheckFailed(_overflowing(report))
    return replace(artifact, notes=(*artifact.notes, *_notes(kept[len(float32_modules) :])))


def _covers(kept: tuple[str, ...], module: str) -> bool:
    return any(module == one or (one and module.startswith(f"{one}.")) for one in kept)


def _overflowing(report: OverflowReport) -> str:
    worst = report.ranges[0]
    size = "" if worst.magnitude is None else f" ({worst.magnitude:.4g}; float16 holds {report.limit:g})"
    return (
        f"{report.artifact} does not stay within float16: {worst.operation} of module {worst.module or '(root)'} "
        f"{_FAULTS[worst.fault]}{size}, and float32 for the modules concerned does not mend it; "
        "use --precision fp32."
    )


def _notes(added: tuple[str, ...]) -> tuple[str, ...]:
    if not added:
        return ()
    named = ", ".join(module or "(root)" for module in added[:_NAMED])
    more = f" and {len(added) - _NAMED} more" if len(added) > _NAMED else ""
    return (f"{named}{more} stay in float32: the lowered program comes too near the largest value of float16 there",)
