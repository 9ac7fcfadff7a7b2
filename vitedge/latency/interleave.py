# SPDX-License-Identifier: Apache-2.0
"""Measures several models in turn, A B A B, each in a process of its own, and compares each with the first."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from vitedge.devices.session import Session
from vitedge.errors import BadRecipe
from vitedge.latency.methods import unequal_methods
from vitedge.latency.model import MeasuredModel
from vitedge.latency.sampling import Rule
from vitedge.latency.statistics import ratio
from vitedge.latency.turns import Run, take_turns
from vitedge.latency.watch import Watch
from vitedge.records import BenchReport, LatencyRatio

_IDLE_S = 1.0
"""Seconds at rest before anything runs, for the power at idle."""
METHOD = "wall time of one synchronous inference on the host, inputs and outputs in host memory"


def measure_in_turn(
    models: Sequence[MeasuredModel],
    session: Session,
    rule: Rule | None = None,
    *,
    every_pair: bool = False,
) -> BenchReport:
    """Measures every model in a process of its own, in turn, and compares each with the first.

    Args:
        models: at least one, with labels that differ; artifacts are paths on this machine.
        session: with the device that they are measured on; a worker ends when its model was measured.
        rule: durations; None is the rule of a result to be published.
        every_pair: compare each with all before it, not with the first alone.

    Returns:
        Reports and ratios; with more threads than processors, or where one model was measured in another way than
        another, no conclusion is drawn from the ratios.

    Raises:
        BadRecipe: a model cannot be run as it was asked for.
        DeviceFailed: a process died, hung or failed; the others end when the session is closed.
    """
    rule = rule or Rule()
    if not models or len({model.label for model in models}) < len(models):
        raise BadRecipe("A measurement needs at least one model, and every model a label of its own.")
    cores = session.cores()
    runs = [Run(dataclasses.replace(model, threads=model.threads or cores), session, rule) for model in models]
    with Watch(session, min(_IDLE_S, rule.warmup_s)) as watch:
        notes = take_turns(runs, session, watch, rule)
        state = {**session.identity(), "before": watch.before, "after": session.condition(), "method": METHOD}
        reports = tuple(run.report(state, watch) for run in runs)
    ratios = tuple(
        dataclasses.replace(_ratio(run, baseline), where=session.name)
        for index, run in enumerate(runs)
        for baseline in runs[: index if every_pair else min(index, 1)]
    )
    inconclusive = _crowded([run.model for run in runs], session.processors()) or unequal_methods(reports)
    if inconclusive:
        ratios = tuple(dataclasses.replace(one, verdict="no conclusion") for one in ratios)
    return BenchReport(reports, ratios, inconclusive, notes=notes)


def _ratio(run: Run, baseline: Run) -> LatencyRatio:
    return ratio((run.model.label, run.rounds), (baseline.model.label, baseline.rounds))


def _crowded(models: Sequence[MeasuredModel], processors: int) -> str:
    """Returns that models have more threads than can run at once, which then wait for each other; else nothing."""
    most = max(model.threads or 1 for model in models)
    if most <= processors:
        return ""
    here = "1 processor" if processors == 1 else f"{processors} processors"
    return (
        f"{most} threads share {here} (affinity and container limits counted) and wait for each other, so the times "
        f"say nothing about the models: measure with --threads {processors} or fewer"
    )
