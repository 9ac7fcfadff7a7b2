# SPDX-License-Identifier: Apache-2.0
"""The turns of models that are measured on one device, A B A B, across connections that are lost and made again."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from vitedge.devices.session import Session, Worker
from vitedge.errors import ConnectionLost, DeviceFailed
from vitedge.files.plain import to_dict
from vitedge.latency.model import MeasuredModel
from vitedge.latency.sampling import Rule, Samples
from vitedge.latency.statistics import quantiles, typical
from vitedge.latency.watch import Watch
from vitedge.progress import advance, count, say, stage
from vitedge.records import LatencyReport
from vitedge.sentences import some

FEWEST_ROUNDS = 8
"""Turns that a slow model gets at least: percentiles of the bootstrap of fewer end at the extreme rounds."""
CONNECTIONS = 5
"""Connections that a measurement may take."""
_NO_CLOCK = (-1.0, -1.0)


class Run:
    """One model on the device, its worker, and the answers of the worker so far.

    Args:
        model: to be measured, with its path on this machine.
        session: with the device.
        rule: durations.
    """

    def __init__(self, model: MeasuredModel, session: Session, rule: Rule) -> None:
        self.model = model
        self.rounds: list[tuple[float, ...]] = []
        self.spans: list[tuple[float, float]] = []
        """Begin and end of each round, in seconds since the start of the device's system."""
        self._session = session
        self._rule = rule
        self._worker: Worker | None = None
        self._facts: dict[str, Any] = {}

    def start(self) -> None:
        """Starts a process there, which imports what it needs while others are started."""
        self._worker = self._session.start(self.model.label, self._rule.patience_s, self.model.runtime)

    def prepare(self) -> None:
        """Loads the model, runs it once and warms it up."""
        path = Path(self.model.source)
        there = dataclasses.replace(self.model, source=self._session.push(path)) if path.exists() else self.model
        self._facts.update(self._ask("load", model=to_dict(there)))
        self._facts.update(self._ask("first"))
        self._facts.update(self._ask("warm_up", rule=to_dict(self._rule)))

    def take_turn(self) -> None:
        """Adds one round of samples."""
        share, seconds = -(-self._rule.samples // self._rule.rounds), self._rule.seconds / self._rule.rounds
        answer = self._ask("burst", samples=share, seconds=seconds)
        self.rounds.append(tuple(answer["raw_ms"]))
        begin, end = answer.get("span_s", _NO_CLOCK)
        self.spans.append((begin, end))

    def keep(self, rounds: int) -> None:
        """Drops the rounds beyond a number, which other models do not have."""
        del self.rounds[rounds:], self.spans[rounds:]

    def is_done(self) -> bool:
        """Returns whether there are enough samples, or enough seconds of running."""
        taken = [sample for samples in self.rounds for sample in samples]
        return len(taken) >= self._rule.samples or sum(taken) >= self._rule.seconds * 1e3

    def end(self) -> None:
        """Ends the worker, which tells the memory that it took."""
        self._facts.update(self._ask("end"))

    def report(self, state: Mapping[str, Any], watch: Watch) -> LatencyReport:
        """Returns the report on the model, whose worker has ended.

        Args:
            state: of the device.
            watch: of the device, over the measurement.
        """
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
            where=self._session.name,
            measured=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            watch=watch.record(self.spans, len(raw)),
            typical_ms=typical(self.rounds),
        )

    def _ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        if self._worker is None:
            raise ValueError(f"{self.model.label} was not started")
        return self._worker.ask(do, **arguments)


def take_turns(runs: Sequence[Run], session: Session, watch: Watch, rule: Rule) -> tuple[str, ...]:
    """Takes turns until every model is done, and ends their workers.

    After a lost connection it connects again, loads and warms up the models again, and goes on with the round that was
    broken; the rounds before it stay.

    Args:
        runs: the models.
        session: with the device.
        watch: of the device, which begins again with each connection.
        rule: durations.

    Returns:
        A note on the connections that were lost, if any were.

    Raises:
        DeviceFailed: a process failed, or the device stays out of reach.
    """
    lost: list[int] = []
    while True:
        try:
            _prepare(runs)
            with stage("measuring in turn: " + ", ".join(run.model.label for run in runs)):
                _take(runs, rule)
            for run in runs:
                run.end()
            break
        except ConnectionLost as error:
            complete = min(len(run.rounds) for run in runs)
            lost.append(complete)
            if len(lost) == CONNECTIONS:
                raise DeviceFailed(f"{error} It was the {CONNECTIONS}th time in this measurement.") from error
            say(f"{error} Connecting again; {complete} rounds are kept.")
            for run in runs:
                run.keep(complete)
            session.reconnect()
            watch.again()
    if not lost:
        return ()
    after = ", ".join(f"round {rounds}" for rounds in lost)
    return (f"{session.name}: the connection was lost after {after}; the models were loaded again and measured on",)


def _prepare(runs: Sequence[Run]) -> None:
    with stage("loading " + some(run.model.label for run in runs)):
        for run in runs:
            run.start()
    for run in runs:
        with stage(f"warming up {run.model.label}"):
            run.prepare()


def _take(runs: Sequence[Run], rule: Rule) -> None:
    """Takes turns until every model is done, which is about the turns of the rule, or fewer of slow models."""
    turn = len(runs[0].rounds)
    count(rule.rounds, turn, unit="round")
    # A model whose pace changes ends some turns by their count and others by their time: it may need a few more.
    while turn < min(FEWEST_ROUNDS, rule.rounds) or not all(run.is_done() for run in runs):
        turn += 1
        for run in runs:
            run.take_turn()
        advance()


def size_of(path: Path) -> int:
    """Returns the bytes of a folder, or of a file with its weights in ``NAME.data`` or ``NAME_data``; 0 of neither."""
    if path.is_dir():
        return sum(entry.stat().st_size for entry in path.rglob("*") if entry.is_file())
    files = [path, *(path.with_name(path.name + suffix) for suffix in (".data", "_data"))]
    return sum(file.stat().st_size for file in files if file.is_file())
