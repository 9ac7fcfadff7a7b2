# SPDX-License-Identifier: Apache-2.0
"""How fast: warm up until it settles, measure in turn and in processes of their own, keep every sample.

The rules and where they come from: warm-up by time and until the spread settles, at least 200 samples or 10 s, tails
only where the samples carry them, no trimming. Subjects are compared by the ratio of their medians with a bootstrap
interval over paired rounds, because what disturbs a machine disturbs neighbouring samples together.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vitedge import registry
from vitedge.errors import BadRecipe
from vitedge.files.plain import to_dict
from vitedge.latency_process import WorkerProcess
from vitedge.records import BenchReport, LatencyRatio, LatencyReport, Quantiles

DRIFT_LIMIT = 0.03
"""Above it the machine was heating up or throttling."""
P95_SAMPLES = 40
P99_SAMPLES = 100
"""Fewer than these leave one sample or none beyond the quantile."""
RESAMPLES = 2000
NEGLIGIBLE = 0.01
"""Two processes of one and the same artifact differ by a few thousandths, beyond what their own rounds show."""
FEWEST_ROUNDS = 5
"""Slow subjects get at least so many turns, for fewer cannot be resampled."""
METHOD = "wall time of one synchronous inference on the host, inputs and outputs in host memory"


@dataclass(frozen=True)
class Rule:
    """How long to warm up and to measure. The defaults are those of a result to be published."""

    warmup_s: float = 1.0
    warmup_limit_s: float = 10.0
    """The spread has to settle by then; if it does not the result is marked unstable."""
    settle: float = 0.02
    """The spread has settled when CoV and median of two neighbouring windows differ by at most this much."""
    samples: int = 200
    seconds: float = 10.0
    """A subject is measured until it has that many samples or this much time has been spent in it."""
    rounds: int = 20
    """Turns that each subject gets; what the bootstrap resamples."""
    patience_s: float = 600.0
    """How long a subject may stay silent, loading or running, before it is given up."""

    def __post_init__(self) -> None:
        if self.samples < 1 or self.rounds < 1 or self.seconds <= 0 or self.warmup_s < 0:
            raise BadRecipe("A measurement needs at least one sample, one round and a time above zero.")


@dataclass(frozen=True)
class Subject:
    """One thing to be measured; it crosses to the process that runs it as JSON."""

    label: str
    runtime: str
    """A name of `vitedge.registry.RUNTIMES`."""
    source: str
    """The artifact's path, or what the factory takes."""
    batch: int | None = None
    """None is the artifact's fixed batch, or 1."""
    threads: int | None = None
    """None is the number of physical cores that this process may use, the same for every runtime."""
    factory: str = ""
    """For a runtime that runs no file: ``package.module:name`` of what makes its source in the other process.

    It is called with ``source`` and ``options`` and returns the source of the runtime (for torch an ``nn.Module``)
    and the tuple of its inputs' `TensorSpec`.
    """
    options: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the factory, plain JSON values."""


@dataclass(frozen=True)
class Samples:
    """What one measurement saw, in milliseconds."""

    raw_ms: tuple[float, ...]
    warmup: int
    """Runs before the first sample."""
    settled: bool

    @property
    def stable(self) -> bool:
        """Whether the spread settled during warm-up and the samples do not drift."""
        return self.settled and abs(quantiles(self.raw_ms).drift) <= DRIFT_LIMIT


def measure(runner: Callable[[], Any], rule: Rule | None = None) -> Samples:
    """Warms up and measures one callable in this process, back to back.

    Args:
        runner: one inference, finished when it returns.
        rule: how long; None is the rule of a result to be published.
    """
    rule = rule or Rule()
    warmup, settled = warm_up(runner, rule)
    return Samples(burst(runner, rule.samples, rule.seconds), warmup, settled)


def warm_up(runner: Callable[[], Any], rule: Rule) -> tuple[int, bool]:
    """Runs for the time of the rule and until the spread settles; tells how many runs and whether it did settle."""
    seen: list[float] = []
    begin = time.perf_counter()
    while True:
        seen.append(_once(runner))
        spent = time.perf_counter() - begin
        if spent >= rule.warmup_s and settled(seen, rule.settle):
            return len(seen), True
        if spent >= max(rule.warmup_s, rule.warmup_limit_s):
            return len(seen), False


def settled(samples: Sequence[float], tolerance: float) -> bool:
    """Whether the last window of samples has the spread and the median of the window before it."""
    width = min(20, len(samples) // 2)
    if width < 5:
        return False
    last, before = np.asarray(samples[-width:]), np.asarray(samples[-2 * width : -width])
    spread = abs(last.std(ddof=1) / last.mean() - before.std(ddof=1) / before.mean())
    shift = abs(np.median(last) / np.median(before) - 1)
    return bool(spread <= tolerance and shift <= tolerance)


def burst(runner: Callable[[], Any], samples: int, seconds: float) -> tuple[float, ...]:
    """Times runs back to back until there are so many or so much time has passed; at least one. In milliseconds."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while not times or (len(times) < samples and time.perf_counter() < end):
        times.append(_once(runner))
    return tuple(times)


def quantiles(samples_ms: Sequence[float]) -> Quantiles:
    """Order statistics, spread and drift of samples in the order in which they were taken.

    Quantiles interpolate linearly between order statistics (Hyndman and Fan 1996, type 7).
    """
    if not samples_ms:
        raise BadRecipe("There are no latency samples to summarize.")
    values = np.asarray(samples_ms, dtype=np.float64)
    count = values.size
    third = max(1, count // 3)
    p90, p95, p99 = (float(value) for value in np.percentile(values, (90, 95, 99)))
    return Quantiles(
        minimum=float(values.min()),
        median=float(np.median(values)),
        mean=float(values.mean()),
        p90=p90,
        p95=p95 if count >= P95_SAMPLES else None,
        p99=p99 if count >= P99_SAMPLES else None,
        cov=float(values.std(ddof=1) / values.mean()) if count > 1 else 0.0,
        drift=float(np.median(values[-third:]) / np.median(values[:third]) - 1),
    )


def ratio(
    subject: tuple[str, Sequence[Sequence[float]]], baseline: tuple[str, Sequence[Sequence[float]]], seed: int = 0
) -> LatencyRatio:
    """Median of the subject's samples over that of the baseline's, with its 95 % paired block bootstrap interval.

    Rounds are resampled with replacement, the same for both, so that what slowed a whole round down slows both
    (Künsch 1989; percentile interval, Efron and Tibshirani 1993).

    Args:
        subject: label and samples in milliseconds, one sequence a round.
        baseline: the same, measured in turn with the subject: round i of both are neighbours in time.
        seed: of the resampling.

    Raises:
        BadRecipe: the two were not measured in the same number of rounds.
    """
    (label, mine), (other, theirs) = subject, baseline
    if len(mine) != len(theirs) or not mine:
        raise BadRecipe(f"{label} has {len(mine)} rounds and {other} {len(theirs)}; a ratio needs them in pairs.")
    draws = np.random.default_rng(seed).integers(0, len(mine), size=(RESAMPLES, len(mine)))
    resampled = _medians(mine, draws) / _medians(theirs, draws)
    low, high = (float(bound) for bound in np.percentile(resampled, (2.5, 97.5)))
    everything = np.arange(len(mine))[None]
    middle = float((_medians(mine, everything) / _medians(theirs, everything))[0])
    return LatencyRatio(label, other, middle, low, high, _verdict(middle, low, high))


def _verdict(middle: float, low: float, high: float) -> str:
    if low <= 1 <= high or abs(middle - 1) < NEGLIGIBLE:
        return "no difference"
    return "faster" if middle < 1 else "slower"


def bench(
    subjects: Sequence[Subject],
    rule: Rule | None = None,
    device: str = "local",
    progress: Callable[[str], None] = lambda _message: None,
) -> BenchReport:
    """Measures every subject in a process of its own, in turn, and each against the first.

    Args:
        subjects: at least one, with labels that differ.
        rule: how long; None is the rule of a result to be published.
        device: a name of `vitedge.registry.DEVICES`.
        progress: is told what begins.

    Raises:
        BadRecipe: a subject cannot be run as it was asked for.
        DeviceFailed: a process died, hung or failed; none of the others is left behind.
    """
    rule = rule or Rule()
    if not subjects or len({subject.label for subject in subjects}) < len(subjects):
        raise BadRecipe("A measurement needs at least one subject, and every subject a label of its own.")
    machine = registry.load(registry.DEVICES, device)
    cores = machine.cores()
    chosen = [dataclasses.replace(subject, threads=subject.threads or cores) for subject in subjects]
    before = machine.condition()
    with contextlib.ExitStack() as stack:
        runs = [_Run(subject, rule, stack) for subject in chosen]
        for run in runs:
            progress(f"warming up {run.subject.label}")
            run.prepare()
        progress("measuring in turn: " + ", ".join(run.subject.label for run in runs))
        _take_turns(runs, rule)
        state = {**machine.identity(), "before": before, "after": machine.condition(), "method": METHOD}
        reports = tuple(run.report(state) for run in runs)
    baseline = (runs[0].subject.label, runs[0].rounds)
    ratios = tuple(ratio((run.subject.label, run.rounds), baseline) for run in runs[1:])
    return BenchReport(reports, ratios)


class _Run:
    """One subject, its process, and what it has answered so far."""

    def __init__(self, subject: Subject, rule: Rule, stack: contextlib.ExitStack) -> None:
        self.subject = subject
        self.rounds: list[tuple[float, ...]] = []
        self._rule = rule
        self._process = WorkerProcess(subject.label, rule.patience_s)
        stack.callback(self._process.kill)
        self._facts: dict[str, Any] = {}

    def prepare(self) -> None:
        """Loads, runs once, warms up."""
        self._facts.update(self._process.ask("load", subject=to_dict(self.subject)))
        self._facts.update(self._process.ask("first"))
        self._facts.update(self._process.ask("warm_up", rule=to_dict(self._rule)))

    def take_turn(self) -> None:
        """One round of samples."""
        share, seconds = -(-self._rule.samples // self._rule.rounds), self._rule.seconds / self._rule.rounds
        self.rounds.append(tuple(self._process.ask("burst", samples=share, seconds=seconds)["raw_ms"]))

    def is_done(self) -> bool:
        """Whether there are samples enough, or time enough was spent."""
        taken = [sample for samples in self.rounds for sample in samples]
        return len(taken) >= self._rule.samples or sum(taken) >= self._rule.seconds * 1e3

    def report(self, state: Mapping[str, Any]) -> LatencyReport:
        """Ends the process and sums up."""
        self._facts.update(self._process.ask("end"))
        raw = tuple(sample for samples in self.rounds for sample in samples)
        return LatencyReport(
            subject=self.subject.label,
            runtime=self.subject.runtime,
            device={**state, **self._facts["described"]},
            batch=self._facts["batch"],
            samples=len(raw),
            load_ms=self._facts["load_ms"],
            first_ms=self._facts["first_ms"],
            peak_memory_mb=self._facts["peak_memory_mb"],
            file_size=size_of(Path(self.subject.source)),
            quantiles=quantiles(raw),
            stable=Samples(raw, self._facts["count"], self._facts["settled"]).stable,
            raw_ms=raw,
        )


def size_of(path: Path) -> int:
    """Bytes of a file with the weights that lie beside it as ``NAME.data`` or ``NAME_data``, or of a folder; else 0."""
    if path.is_dir():
        return sum(entry.stat().st_size for entry in path.rglob("*") if entry.is_file())
    files = [path, *(path.with_name(path.name + suffix) for suffix in (".data", "_data"))]
    return sum(file.stat().st_size for file in files if file.is_file())


def _take_turns(runs: Sequence[_Run], rule: Rule) -> None:
    for turn in range(max(rule.rounds, 1)):
        if turn >= FEWEST_ROUNDS and all(run.is_done() for run in runs):
            return
        for run in runs:
            run.take_turn()


def _medians(rounds: Sequence[Sequence[float]], draws: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The median of all samples of the rounds in each row of ``draws``. Rounds may differ in length."""
    lengths = np.array([len(samples) for samples in rounds])
    padded = np.full((len(rounds), lengths.max()), np.inf)
    for row, samples in zip(padded, rounds, strict=True):
        row[: len(samples)] = samples
    pools = np.sort(padded[draws].reshape(len(draws), -1), axis=1)
    counts, rows = lengths[draws].sum(axis=1), np.arange(len(draws))
    middle: np.ndarray[Any, Any] = (pools[rows, (counts - 1) // 2] + pools[rows, counts // 2]) / 2
    return middle


def _once(runner: Callable[[], Any]) -> float:
    begin = time.perf_counter_ns()
    runner()
    return (time.perf_counter_ns() - begin) / 1e6
