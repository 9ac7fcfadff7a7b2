# SPDX-License-Identifier: Apache-2.0
"""Measures the statistics of latency on synthetic samples whose truth is known.

``python -m benchmarks.latency_statistics`` from the root of the repository writes
``benchmarks/results/latency_statistics.json``: how often the 95 % interval of a ratio covers the true one, how wide it
is beside Student's, how often a conclusion is the right one, and how often two modes are seen where there are two, and
where there are none. A figure beyond its limit is written down like any other and ends the script with exit code 1.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vitedge.devices import machine
from vitedge.latency.bootstrap import student_quantile
from vitedge.latency.distribution import modes
from vitedge.latency.statistics import ratio
from vitedge.records import LatencyRatio

RESULTS = Path(__file__).with_name("results") / "latency_statistics.json"
TRIALS = {"coverage": 800, "conclusions": 100, "shapes": 200}
"""Measurements behind each row of a table."""
TRUE = 1.2
"""Ratio of the medians in all scenarios."""
SIZES = ((5, 10), (8, 3), (20, 10))
"""Rounds, and samples a round."""
COVERED = (0.93, 0.975)
WIDEST, RIGHT = 1.3, 0.9
LIMITS = {"coverage": COVERED, "normal_width_over_student": WIDEST, "right": RIGHT}
"""The width is that of 20 rounds of 10 samples, which are the default rule's."""
UNCOVERED = "each model's own autocorrelated rounds"
"""The scenario without a limit: its rounds are not exchangeable, which any bootstrap of rounds relies on."""

Rounds = npt.NDArray[np.float64]
Draw = Callable[[np.random.Generator, int, int], Rounds]
"""Returns factors around a median of one, ``(rounds, samples)``."""


def normal(rng: np.random.Generator, rounds: int, samples: int) -> Rounds:
    """Returns independent factors with a CoV of 5 %."""
    return 1 + 0.05 * rng.standard_normal((rounds, samples))


def wandering(rng: np.random.Generator, rounds: int, memory: float) -> Rounds:
    """Returns a factor a round, of an autoregression with a standard deviation of 3 %."""
    state = [rng.standard_normal()]
    for _ in range(rounds - 1):
        state.append(memory * state[-1] + np.sqrt(1 - memory**2) * rng.standard_normal())
    factors: Rounds = np.exp(0.03 * np.array(state))[:, None]
    return factors


def _outliers(rng: np.random.Generator, rounds: int, samples: int) -> Rounds:
    late = rng.random((rounds, samples)) < 0.05
    return normal(rng, rounds, samples) * np.where(late, 1 + rng.exponential(3, late.shape), 1)


def _two_modes(rng: np.random.Generator, rounds: int, samples: int) -> Rounds:
    return normal(rng, rounds, samples) * np.where(rng.random((rounds, samples)) < 0.7, 1.0, 1.4)


SKEWED: Draw = lambda rng, rounds, samples: 1 + rng.exponential(0.05, (rounds, samples))  # noqa: E731 - a table's entry
INDEPENDENT: Mapping[str, Draw] = {
    "normal": normal,
    "lognormal": lambda rng, rounds, samples: np.exp(0.2 * rng.standard_normal((rounds, samples))),
    "skewed": SKEWED,
    "5 % outliers": _outliers,
    "two modes, 70 and 30 %": _two_modes,
    "each model's own level in each round": lambda rng, rounds, samples: (
        wandering(rng, rounds, 0.0) * normal(rng, rounds, samples)
    ),
    UNCOVERED: lambda rng, rounds, samples: wandering(rng, rounds, 0.3) * normal(rng, rounds, samples),
}
SHARED: Mapping[str, Draw] = {
    "shared level in each round": lambda rng, rounds, _samples: rng.lognormal(0, 0.2, (rounds, 1)),
    "shared autocorrelated rounds": lambda rng, rounds, _samples: wandering(rng, rounds, 0.9) ** 5,
}
"""Factors that both models have in common, times skewed ones of their own."""
CLOCKS = {"clock of 1 us": 0.001, "clock of 0.1 ms": 0.1}
SCENARIOS = (*INDEPENDENT, *SHARED, *CLOCKS)


def pair(scenario: str, rng: np.random.Generator, rounds: int, samples: int) -> tuple[Rounds, Rounds]:
    """Returns the milliseconds of a model and of its baseline, whose median is 3 ms and 1 / `TRUE` of the model's."""
    own = INDEPENDENT.get(scenario, SKEWED if scenario in SHARED else normal)
    common = SHARED[scenario](rng, rounds, samples) if scenario in SHARED else 1.0
    both = [3.0 * scale * common * own(rng, rounds, samples) for scale in (TRUE, 1.0)]
    step = CLOCKS.get(scenario)
    mine, theirs = (np.round(values / step) * step if step else values for values in both)
    return mine, theirs


def compare(mine: Rounds, theirs: Rounds, seed: int = 0) -> LatencyRatio:
    """Returns the ratio of ``a`` to ``b``."""
    return ratio(("a", mine.tolist()), ("b", theirs.tolist()), seed)


def student_widths(mine: Rounds, theirs: Rounds) -> tuple[float, float]:
    """Returns the widths of two Student intervals of the log ratio: by all samples' means, and by the rounds' medians.

    The first takes all samples for independent, as a mean of normal samples does that are (delta method); the second
    is that of paired rounds. Neither is an interval of the other's quantity: they are measures of width.
    """
    count = mine.size
    errors = [values.var(ddof=1) / values.mean() ** 2 / count for values in (mine, theirs)]
    logs = np.log(np.median(mine, axis=1) / np.median(theirs, axis=1))
    all_samples = 2 * student_quantile(2 * count - 2) * np.sqrt(sum(errors))
    return float(all_samples), float(2 * student_quantile(logs.size - 1) * logs.std(ddof=1) / np.sqrt(logs.size))


@dataclass(frozen=True)
class Coverage:
    """How often the interval covers the true ratio."""

    scenario: str
    rounds: int
    samples: int
    coverage: float
    width_over_student: float
    """Mean width in logarithms over that of Student's interval for the means of all samples."""
    width_over_students_of_rounds: float
    """The same for the medians of the rounds."""
    inconclusive: float
    """Share of the trials in which nothing is concluded."""


def coverage(scenario: str, rounds: int, samples: int, trials: int = TRIALS["coverage"]) -> Coverage:
    """Returns the coverage of the intervals of that many measurements."""
    rng = np.random.default_rng(rounds * 1000 + samples)
    covered = inconclusive = 0
    widths = np.zeros(3)
    for seed in range(trials):
        mine, theirs = pair(scenario, rng, rounds, samples)
        found = compare(mine, theirs, seed)
        covered += found.low <= TRUE <= found.high
        inconclusive += found.verdict == "no conclusion"
        widths += np.log(found.high / found.low), *student_widths(mine, theirs)
    shares = covered / trials, float(widths[0] / widths[1]), float(widths[0] / widths[2]), inconclusive / trials
    return Coverage(scenario, rounds, samples, *(round(share, 3) for share in shares))


def _ramp(change: float) -> Rounds:
    return np.exp(np.linspace(0, np.log1p(change), 20))[:, None]


def _clocked(values: Rounds, step: float) -> Rounds:
    clocked: Rounds = np.round(values / step) * step
    return clocked


def _states(rng: np.random.Generator, share: float) -> Rounds:
    """Returns the factors of a processor that runs in a slower state for a share of the rounds."""
    factors: Rounds = np.where(rng.permutation(20) < 20 * share, 1.4, 1.0)[:, None]
    return factors


def situation(name: str, rng: np.random.Generator) -> tuple[Rounds, Rounds]:
    """Returns the samples of a model and its baseline, 20 rounds of 10, as they are in one of `CONCLUSIONS`."""
    mine, theirs = (3 * (1 + 0.02 * rng.standard_normal((20, 10))) for _ in "ab")
    shared = _states(rng, 0.4)
    table: Mapping[str, tuple[Rounds | float, Rounds | float]] = {
        "the same twice": (1.0, 1.0),
        "10 % slower": (1.1, 1.0),
        "10 % faster": (1 / 1.1, 1.0),
        "10 % slower, both drift by 10 %": (1.1 * _ramp(0.1), _ramp(0.1)),
        "half the time, and one drifts by 10 %": (0.5 * _ramp(0.1), 1.0),
        "3 % faster at first, 6 % slower at last": (0.97 * _ramp(0.09), 1.0),
        "10 % slower, both in two modes by turns": (1.1 * shared, shared),
        "the same in two modes of other shares": (_states(rng, 0.2), _states(rng, 0.7)),
        "half the time in two modes, the other in one": (0.5 * shared, 1.0),
        "10 % slower with outliers": (1.1 * _outliers(rng, 20, 10), _outliers(rng, 20, 10)),
    }
    if name in table:
        return mine * table[name][0], theirs * table[name][1]
    if name == "10 % slower, clock of 0.1 ms":
        return _clocked(1.1 * mine, 0.1), _clocked(theirs, 0.1)
    still = 1 + 0.001 * rng.standard_normal((20, 10))
    return _clocked(3.29 * still, 0.1), _clocked(3.31 * still, 0.1)


CONCLUSIONS = {
    "the same twice": "no difference",
    "10 % slower": "slower",
    "10 % faster": "faster",
    "10 % slower, both drift by 10 %": "slower",
    "half the time, and one drifts by 10 %": "faster",
    "3 % faster at first, 6 % slower at last": "no conclusion",
    "10 % slower, both in two modes by turns": "slower",
    "the same in two modes of other shares": "no conclusion",
    "half the time in two modes, the other in one": "faster",
    "10 % slower with outliers": "slower",
    "10 % slower, clock of 0.1 ms": "slower",
    "less apart than a clock's step, without spread": "no conclusion",
}
"""Situation to what is right to conclude."""


@dataclass(frozen=True)
class Conclusion:
    """How often the right thing is concluded."""

    situation: str
    expected: str
    right: float
    others: Mapping[str, float]
    """What else was concluded, to its share."""


def conclusion(name: str, trials: int = TRIALS["conclusions"]) -> Conclusion:
    """Returns what is concluded from that many measurements."""
    rng = np.random.default_rng(0)
    found = Counter(compare(*situation(name, rng), seed).verdict for seed in range(trials))
    right = found.pop(CONCLUSIONS[name], 0)
    return Conclusion(name, CONCLUSIONS[name], right / trials, {key: count / trials for key, count in found.items()})


SHAPES: Mapping[str, tuple[bool, Callable[[np.random.Generator, int], Rounds]]] = {
    "normal": (False, lambda rng, count: 3 + 0.15 * rng.standard_normal(count)),
    "lognormal": (False, lambda rng, count: np.exp(0.3 * rng.standard_normal(count))),
    "exponential tail": (False, lambda rng, count: 1 + rng.exponential(0.2, count)),
    "uniform": (False, lambda rng, count: 3 + rng.random(count)),
    "5 % outliers": (False, lambda rng, count: 3 * _outliers(rng, count, 1)[:, 0]),
    "60 % at 3.1 ms, 40 % at 4.4 ms": (
        True,
        lambda rng, count: np.where(rng.random(count) < 0.6, 3.1, 4.4) * (1 + 0.03 * rng.standard_normal(count)),
    ),
    "85 % at 3.1 ms, 15 % at 4.4 ms": (
        True,
        lambda rng, count: np.where(rng.random(count) < 0.85, 3.1, 4.4) * (1 + 0.03 * rng.standard_normal(count)),
    ),
    "50 % at 3.1 ms, 50 % at 3.35 ms": (
        True,
        lambda rng, count: np.where(rng.random(count) < 0.5, 3.1, 3.35) * (1 + 0.01 * rng.standard_normal(count)),
    ),
}
"""Distribution to whether it has two modes, and samples of it."""


@dataclass(frozen=True)
class Shape:
    """How often two modes are seen."""

    shape: str
    has_two: bool
    count: int
    found: float


def shape(name: str, count: int, trials: int = TRIALS["shapes"]) -> Shape:
    """Returns how often two modes are seen in that many measurements."""
    rng = np.random.default_rng(count)
    has_two, draw = SHAPES[name]
    return Shape(name, has_two, count, sum(bool(modes(draw(rng, count))) for _ in range(trials)) / trials)


def missed(covered: list[Coverage], concluded: list[Conclusion], shapes: list[Shape]) -> list[str]:
    """Returns the limits that figures are beyond, each as a sentence."""
    low, high = COVERED
    found = [
        f"{row.scenario}, {row.rounds} x {row.samples}: covered in {row.coverage:.1%}"
        for row in covered
        if row.scenario != UNCOVERED and not low <= row.coverage <= high
    ]
    for row in covered:
        default = (row.scenario, row.rounds, row.samples) == ("normal", 20, 10)
        if default and row.width_over_student > WIDEST:
            found.append(f"normal: {row.width_over_student:.2f} x as wide as Student's interval")
    found += [f"{row.situation}: right in {row.right:.1%}" for row in concluded if row.right < RIGHT]
    for seen in shapes:
        right = seen.found if seen.has_two else 1 - seen.found
        if right < RIGHT:
            found.append(f"{seen.shape}, {seen.count} samples: two modes in {seen.found:.1%}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=RESULTS)
    output = parser.parse_args().output
    covered = [coverage(scenario, *size) for scenario in SCENARIOS for size in SIZES]
    concluded = [conclusion(name) for name in CONCLUSIONS]
    shapes = [shape(name, count) for name in SHAPES for count in (60, 100, 200, 1000)]
    beyond = missed(covered, concluded, shapes)
    told = {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "machine": machine.identity(),
        "trials": TRIALS,
        "true_ratio": TRUE,
    }
    tables: dict[str, Sequence[Any]] = {"coverage": covered, "conclusions": concluded, "shapes": shapes}
    rows = {name: [asdict(row) for row in table] for name, table in tables.items()}
    content = {"provenance": told, "limits": LIMITS, **rows, "missed": beyond}
    output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"missed: {'; '.join(beyond) or 'nothing'}; {output}")
    sys.exit(bool(beyond))


if __name__ == "__main__":
    main()
