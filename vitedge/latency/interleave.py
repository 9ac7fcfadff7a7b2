# SPDX-License-Identifier: Apache-2.0
"""Measures several models in turn, A B A B, each in a process of its own, and compares each with the first."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vitedge.devices.session import Session
from vitedge.errors import BadRecipe
from vitedge.files.plain import to_dict
from vitedge.latency.methods import unequal_methods
from vitedge.latency.model import MeasuredModel
from vitedge.latency.sampling import Rule, Samples
from vitedge.latency.statistics import quantiles, ratio
from vitedge.records import BenchReport, LatencyReport

FEWEST_ROUNDS = 8
"""Turns that a slow model gets at least: percentiles of the bootstrap of fewer end at the extreme rounds."""
METHOD = "wall time of one synchronous inference on the host, inputs and outputs in host memory"


def measure_in_turn(
    models: Sequence[MeasuredModel],
    session: Session,
    rule: Rule | None = None,
    progress: Callable[[str], None] = lambda _message: None,
) -> BenchReport:
    """Measures every model in a process of its own, in turn, and compares each with the first.

    Args:
        models: at least one, with labels that differ; artifacts are paths on this machine.
        session: with the device that they are measured on; a worker ends when its model was measured.
        rule: durations; None is the rule of a result to be published.
        progress: is called with a sentence for each part that begins.

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
    before = session.condition()
    runs = [_Run(dataclasses.replace(model, threads=model.threads or cores), session, rule) for model in models]
    for run in runs:
        progress(f"warming up {run.model.label}")
        run.prepare()
    progress("measuring in turn: " + ", ".join(run.model.label for run in runs))
    _take_turns(runs, rule)
    state = {**session.identity(), "before": before, "after": session.condition(), "method": METHOD}
    reports = tuple(run.report(state) for run in runs)
    baseline = (runs[0].model.label, runs[0].rounds)
    ratios = tuple(ratio((run.model.label, run.rounds), baseline) for run in runs[1:])
    inconclusive = _crowded([run.model for run in runs], session.processors()) or unequal_methods(reports)
    if inconclusive:
        ratios = tuple(dataclasses.replace(one, verdict="no conclusion") for one in ratios)
    return BenchReport(reports, ratios, inconclusive)


class _Run:
    """One model on the device, its worker, and the answers of the worker so far."""

    def __init__(self, model: MeasuredModel, session: Session, rule: Rule) -> None:
        self.model = model
        self.rounds: list[tuple[float, ...]] = []
        self._rule = rule
        self._worker = session.start(model.label, rule.patience_s, model.runtime)
        path = Path(model.source)
        self._there = dataclasses.replace(model, source=session.push(path)) if path.exists() else model
        self._facts: dict[str, Any] = {}

    def prepare(self) -> None:
        """Loads the model, runs it once and warms it up."""
        self._facts.update(self._worker.ask("load", model=to_dict(self._there)))
        self._facts.update(self._worker.ask("first"))
        self._facts.update(self._worker.ask("warm_up", rule=to_dict(self._rule)))

    def take_turn(self) -> None:
        """Adds one round of samples."""
        share, seconds = -(-self._rule.samples // self._rule.rounds), self._rule.seconds / self._rule.rounds
        self.rounds.append(tuple(self._worker.ask("burst", samples=share, seconds=seconds)["raw_ms"]))

    def is_done(self) -> bool:
        """Returns whether there are enough samples, or enough seconds of running."""
        taken = [sample for samples in self.rounds for sample in samples]
        return len(taken) >= self._rule.samples or sum(taken) >= self._rule.seconds * 1e3

    def report(self, state: Mapping[str, Any]) -> LatencyReport:
        """Ends the worker and returns the report on its model; ``state`` is that of the device."""
        self._facts.update(self._worker.ask("end"))
        raw = tuple(sample for samples in self.rounds for sample in samples)
        return LatencyReport(
            subject=self.model.label,
            runtime=self.model.runtime,
            device={**state, **self._facts["described"]},
            batch=self._facts["batch"],
            samples=len(raw),
            load_ms=self._facts["load_ms"],
            first_ms=self._facts["first_ms"],
            peak_memory_mb=self._facts["peak_memory_mb"],
            file_size=size_of(Path(self.model.source)),
            quantiles=quantiles(raw),
            stable=Samples(raw, self._facts["count"], self._facts["settled"]).stable,
            raw_ms=raw,
        )


def size_of(path: Path) -> int:
    """Returns the bytes of a folder, or of a file with its weights in ``NAME.data`` or ``NAME_data``; 0 of neither."""
    if path.is_dir():
        return sum(entry.stat().st_size for entry in path.rglob("*") if entry.is_file())
    files = [path, *(path.with_name(path.name + suffix) for suffix in (".data", "_data"))]
    return sum(file.stat().st_size for file in files if file.is_file())


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


def _take_turns(runs: Sequence[_Run], rule: Rule) -> None:
    """Takes turns until every model is done, which is about the turns of the rule, or fewer of slow models."""
    turn = 0
    # A model whose pace changes ends some turns by their count and others by their time: it may need a few more.
    while turn < min(FEWEST_ROUNDS, rule.rounds) or not all(run.is_done() for run in runs):
        turn += 1
        for run in runs:
            run.take_turn()
