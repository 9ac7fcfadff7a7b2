# SPDX-License-Identifier: Apache-2.0
"""The rule by which ``compare`` recommends one of its candidates."""

from __future__ import annotations

from collections.abc import Sequence

from vitedge.records import LatencyRatio
from vitedge.sentences import some
from vitedge.verbs.records import Candidate


def recommend(candidates: Sequence[Candidate], ratios: Sequence[LatencyRatio]) -> tuple[str, str]:
    """Returns the name of the candidate to ship, empty where there is none, and why it is that one, in a sentence.

    Candidates that were not made or are outside of their tolerance are left aside. Of the others, those go that another
    one is shown to be faster than: the 95 % interval of their ratio, measured in turn, excludes equality (see
    `vitedge.latency.conclusion`). Of what remains, the smallest file is recommended; of equal files, the first. If
    nothing was measured, it is the smallest file of all that are within tolerance.

    Args:
        candidates: in the order in which they are shown.
        ratios: of the latencies of every two that were measured, in either direction.
    """
    within = [one for one in candidates if one.within]
    if not within:
        return "", "nothing is within its tolerance"
    timed = [one for one in within if one.latency is not None]
    if not timed:
        chosen = _smallest(within)
        return chosen.name, "no time was measured, and it is the smallest file within tolerance"
    if len(timed) == 1:
        others = "the only one within tolerance" if len(within) == 1 else "the only one within tolerance that was timed"
        return timed[0].name, f"it is {others}"
    faster = _faster(ratios)
    left = [one for one in timed if not any((other.name, one.name) in faster for other in timed)] or timed
    chosen = _smallest(left)
    if len(left) == 1:
        return chosen.name, _fastest(chosen, timed, ratios)
    equal = some(one.name for one in left)
    return chosen.name, (f"the measurement does not tell {equal} apart in time, and it is the smallest file of these")


def _faster(ratios: Sequence[LatencyRatio]) -> frozenset[tuple[str, str]]:
    """Returns the pairs of names of which the first is shown to be faster than the second."""
    found = {(one.subject, one.baseline) for one in ratios if one.verdict == "faster"}
    return frozenset(found | {(one.baseline, one.subject) for one in ratios if one.verdict == "slower"})


def _fastest(chosen: Candidate, timed: Sequence[Candidate], ratios: Sequence[LatencyRatio]) -> str:
    """Returns how the fastest compares with the runner-up, the one that its ratio is nearest to equality with."""
    names = {one.name for one in timed}
    against = {}
    for one in ratios:
        if one.subject == chosen.name and one.baseline in names:
            against[one.baseline] = (one.ratio, one.low, one.high)
        elif one.baseline == chosen.name and one.subject in names:
            against[one.subject] = (1 / one.ratio, 1 / one.high, 1 / one.low)
    if not against:
        return "it is the fastest within tolerance"
    next_best = max(against, key=lambda name: against[name])
    ratio, low, high = against[next_best]
    return (
        f"it is the fastest within tolerance: {ratio:.2f} x the time of {next_best}, the next "
        f"(95 % interval {low:.2f} to {high:.2f})"
    )


def _smallest(candidates: Sequence[Candidate]) -> Candidate:
    return min(candidates, key=lambda one: one.artifact.size if one.artifact else 0)
