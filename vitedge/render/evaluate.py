# SPDX-License-Identifier: Apache-2.0
"""Renders the result of `evaluate`: shares with their intervals, and the images lost and gained."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from vitedge.accuracy.records import Evaluation, PairedAccuracy, Proportion
from vitedge.files.bundle import MANIFEST
from vitedge.render.following import export_command, kit_command
from vitedge.render.screen import document, lines, next_command, show, table

_NAMED = 5
"""Largest number of skipped images, and of lost images, that are named."""


def render(result: Evaluation, *, options: Sequence[str] = (), image_size: str | None = None, as_json: bool) -> None:
    """Prints top-1, top-5 and agreement of every subject.

    The next command repeats ``options`` about checkpoints, and ``image_size`` as it was typed.
    """
    if as_json:
        return document(result)
    agreement = ("agreement",) if result.reference else ()
    drawn = table("subject", "runtime", "top-1", "top-5", *agreement, right=range(2, 5))
    for row in result.subjects:
        shares = (row.top1, row.top5, row.agreement)[: 2 + len(agreement)]
        drawn.add_row(row.subject, row.runtime, *(_share(share) for share in shares))
    show(drawn)
    lines(
        f"{result.images} images of {result.classes_seen} classes ({result.image_source}); below each share its 95 % "
        "interval",
        *(line for pair in result.comparisons for line in _pair(pair)),
        *_skipped(result),
        *(
            f"note: {row.subject}: the scores of {row.not_finite} images hold NaN or infinity, which is wrong"
            for row in result.subjects
            if row.not_finite
        ),
        *(f"note: {note}" for note in result.notes),
        *dict.fromkeys(f"{row.runtime}: {row.note}" for row in result.subjects if row.note),
        _summary(result),
        *map(next_command, _following(result, options, () if image_size is None else ("--image-size", image_size))),
    )
    return None


def _share(found: Proportion | None) -> str:
    return "-" if found is None else f"{found.share:.2%}\n{100 * found.low:.1f}-{100 * found.high:.1f}"


def _pair(pair: PairedAccuracy) -> Iterator[str]:
    change = f"{pair.lost} images lost, {pair.gained} gained ({0 - pair.drop_points:+.2f} points"
    yield f"{pair.subject} against {pair.baseline}: {change}; exact McNemar p = {pair.p_value:.2g})"
    if pair.lost:
        more = f" and {pair.lost - _NAMED} more" if pair.lost > _NAMED else ""
        yield f"  lost: {', '.join(pair.lost_images[:_NAMED])}{more}"


def _skipped(result: Evaluation) -> Iterator[str]:
    for name, reason in list(result.skipped.items())[:_NAMED]:
        yield f"skipped: {name}: {reason}"
    if result.skipped:
        more = len(result.skipped) - _NAMED
        unnamed = f", {more} of them not named here" if more > 0 else ""
        yield f"{len(result.skipped)} images could not be read and were skipped{unnamed}"


def _summary(result: Evaluation) -> str:
    done = f"{len(result.subjects)} evaluated in {result.seconds:.1f} s"
    if result.max_drop is None:
        return done
    return f"{done}: FAILED: {result.reason}" if result.reason else f"{done}: within {result.max_drop:g} points"


def _following(result: Evaluation, options: Sequence[str], size: Sequence[str]) -> Iterator[str]:
    """Yields the command to type next; none where nothing that was named can be typed."""
    compared = result.subjects[1:] if result.reference else result.subjects
    artifacts = [row.source for row in compared if row.runtime != "torch"]
    if not artifacts:
        yield export_command(compared[0].source, (*options, *result.guesses, *size))
        return
    against = ["vitedge", "validate", artifacts[0], "--against", result.reference or "", *options]
    if result.reference and not result.passed:
        yield shlex.join([*against, "--layers"])
        return
    # The time of a package that is computed op by op says nothing of the package.
    timed = [row.source for row in compared if row.runtime != "mlprogram"]
    bundle = Path(artifacts[0]).parent
    if timed:
        yield shlex.join(["vitedge", "bench", *timed])
    elif (bundle / MANIFEST).is_file():
        yield kit_command(bundle)
    elif result.reference:
        yield shlex.join(against)
