# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
from rich.console import Console
from rich.progress import Progress as RichProgress

from vitedge import progress
from vitedge.progress import Lines, Silence, Stage, count, counted, note, reporting, say, spoken, stage


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(progress, "time", found)
    return found


def steps(clock: Clock, number: int, seconds: float) -> Iterator[int]:
    for step in range(number):
        clock.now += seconds
        yield step


def test_a_callable_is_told_every_stage_and_in_a_long_one_how_far_it_is(clock: Clock) -> None:
    told: list[str] = []
    with reporting(told.append), stage("quantize", whole=True):
        with stage("rounding"):
            for _ in counted(steps(clock, 50, 1.0), 50, unit="layer"):
                pass
        with stage("quick"), stage("inner"):
            say("a sentence")
    assert told == [
        "rounding …",
        *(f"rounding: layer {done} of 50, {50 - done} s left" for done in (10, 20, 30, 40, 50)),
        "quick …",
        "quick · inner …",
        "a sentence",
    ]


def test_the_time_left_counts_the_steps_of_this_run_alone(clock: Clock) -> None:
    with stage("calibrating") as here:
        count(128, 64, unit="image")
        assert here.describe() == "image 64 of 128"
        clock.now += 8.0
        here.advance(16)
        here.remark = "loss 0.5"
    assert here.describe() == "image 80 of 128, 24 s left, loss 0.5"


def test_a_note_is_told_once_a_run() -> None:
    told: list[str] = []
    for _ in range(2):
        with reporting(told.append):
            note("the mean is a guess")
            with reporting(None):  # a verb within a verb
                note("the mean is a guess")
            note("another")
    assert told == ["note: the mean is a guess", "note: another"] * 2


def test_a_rich_progress_gets_a_bar_for_each_stage() -> None:
    console = Console(file=io.StringIO(), width=80)
    seen: list[tuple[str, float | None, float]] = []
    with RichProgress(console=console, auto_refresh=False) as bars, reporting(bars), stage("rounding"):
        for _ in counted([1, 2, 3]):
            seen += [(task.description, task.total, task.completed) for task in bars.tasks]
        note("[bold] is no markup")
        assert len(bars.tasks) == 1
    assert not bars.tasks
    assert seen == [("rounding", 3.0, float(done)) for done in range(3)]
    assert "note: [bold] is no markup" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_listener_hears_of_a_stage_that_failed() -> None:
    ended: list[tuple[str, bool]] = []

    class Heard(Silence):
        def ended(self, stage: Stage) -> None:
            ended.append((stage.title, stage.failed))

    with pytest.raises(ZeroDivisionError), reporting(Heard()), stage("outer"), stage("inner"):
        raise ZeroDivisionError
    assert ended == [("inner", True), ("outer", True)]


def test_nobody_has_to_listen() -> None:
    assert list(counted([1, 2])) == [1, 2]
    say("nothing")
    with stage("alone") as here:
        progress.advance()
    assert here.done == 1
    assert Lines(print)


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (89, "89 s"), (150, "2 min"), (9000, "2.5 h")])
def test_times_are_told_as_people_say_them(seconds: float, text: str) -> None:
    assert spoken(seconds) == text
