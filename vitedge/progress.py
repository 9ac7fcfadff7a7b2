# SPDX-License-Identifier: Apache-2.0
"""Tells how far the work is: stages that begin, advance and end, and notes, to whoever listens.

Code that does the work says ``with stage("rounding"):`` and ``for layer in counted(layers):``, wherever it lies. Who
listens is set once, around a verb, and holds for everything below it, as with `logging`: otherwise every function down
to the innermost loop would take a parameter that has nothing to do with what it computes. Nobody listens by default.

Listeners are a plain callable, which gets a line a stage; a ``rich.progress.Progress``, which gets a bar a stage; and a
`Listener`. Everything is also logged, to the logger ``vitedge.progress``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, runtime_checkable

from vitedge.stopping import leave_if_asked

LINE_SECONDS = 10.0
"""Shortest time between two lines that say how far one stage is, where there is no bar."""
_LOG = logging.getLogger(__name__)
_Item = TypeVar("_Item")


@dataclass(eq=False)
class Stage:
    """A part of the work: how far it is, and the stage that it is a part of."""

    title: str
    total: int | None = None
    """Number of steps; None where it is not known."""
    parent: Stage | None = None
    whole: bool = False
    """Whether it is a verb as a whole, of which its stages tell all."""
    done: int = 0
    """Number of steps that are done."""
    begun: float = field(default_factory=lambda: time.monotonic())  # noqa: PLW0108 - looked up when called
    unit: str = ""
    """The word for a step, such as ``image``."""
    remark: str = ""
    """A few words on the last step, such as the loss."""
    failed: bool = False
    """Whether it ended by an error."""
    _counted_from: tuple[float, int] | None = None
    """Time, and steps done, when counting began: steps of an earlier run say nothing about the speed of this one."""

    def count(self, total: int | None, done: int = 0, *, unit: str = "") -> None:
        """Begins to count steps, of which some may have been done by an earlier run."""
        self.total, self.done, self.unit = total, done, unit
        self._counted_from = time.monotonic(), done
        _listener.get().advanced(self)

    def advance(self, steps: int = 1) -> None:
        """Counts steps that were done; leaves, if the command was asked to meanwhile."""
        leave_if_asked()
        self.done += steps
        _listener.get().advanced(self)

    @property
    def path(self) -> str:
        """Titles from the outermost part to this one, without those of verbs as a whole."""
        titles = [one.title for one in self.lineage() if not one.whole]
        return " · ".join(reversed(titles)) or self.title

    def lineage(self) -> Iterator[Stage]:
        """Yields this stage, and those that it is a part of."""
        here: Stage | None = self
        while here is not None:
            yield here
            here = here.parent

    @property
    def seconds(self) -> float:
        """Time since it began."""
        return time.monotonic() - self.begun

    @property
    def seconds_left(self) -> float | None:
        """Time that the other steps take, if they take as long as those that are done; None where none is done."""
        begun, before = self._counted_from or (self.begun, 0)
        if self.total is None or self.done <= before:
            return None
        seconds_each = (time.monotonic() - begun) / (self.done - before)
        return seconds_each * max(self.total - self.done, 0)

    def describe(self) -> str:
        """Returns such as ``part 12 of 50, 40 s left``; empty where steps are not counted."""
        if self.total is None:
            return ""
        left = self.seconds_left
        so_far = f"{self.unit} {self.done} of {self.total}".strip()
        parts = [so_far, "" if left is None else f"{spoken(left)} left", self.remark]
        return ", ".join(part for part in parts if part)


class Listener(Protocol):
    """Whoever is told how far the work is."""

    def begun(self, stage: Stage) -> None:
        """Is told of a stage that begins."""

    def advanced(self, stage: Stage) -> None:
        """Is told that more steps of a stage are done."""

    def ended(self, stage: Stage) -> None:
        """Is told of a stage that ended."""

    def said(self, text: str) -> None:
        """Is told a sentence about the work."""


@runtime_checkable
class TaskBars(Protocol):
    """The part of ``rich.progress.Progress`` that is used here."""

    console: Any

    def add_task(self, description: str, *, total: float | None = None) -> Any:
        """Returns the number of a new bar."""

    def update(self, task_id: Any, *, total: float | None = None, completed: float | None = None) -> None:
        """Sets how far a bar is."""

    def remove_task(self, task_id: Any) -> None:
        """Removes a bar."""


Progress = Callable[[str], None] | TaskBars | Listener
"""What the verbs take as ``progress``: such as ``print``, or a ``rich.progress.Progress``."""


class Silence:
    """A listener that tells nobody."""

    def begun(self, stage: Stage) -> None:
        """Does nothing."""

    def advanced(self, stage: Stage) -> None:
        """Does nothing."""

    def ended(self, stage: Stage) -> None:
        """Does nothing."""

    def said(self, text: str) -> None:
        """Does nothing."""


class Lines(Silence):
    """A listener that calls a function with lines: one a stage, and in a long one every ten seconds how far it is.

    Args:
        tell: takes a line.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._told = time.monotonic()

    def begun(self, stage: Stage) -> None:
        """Tells the title; not that of a verb as a whole, whose stages are told."""
        if not stage.whole:
            self.said(f"{stage.path} …")

    def advanced(self, stage: Stage) -> None:
        """Tells how far the stage is, if nothing was told for some time."""
        if stage.seconds_left is not None and time.monotonic() - self._told >= LINE_SECONDS:
            self.said(f"{stage.path}: {stage.describe()} …")

    def said(self, text: str) -> None:
        """Tells the sentence."""
        self._told = time.monotonic()
        self._tell(text)


class _Bars(Silence):
    """A listener that shows each stage as a task of a ``rich.progress.Progress``."""

    def __init__(self, bars: TaskBars) -> None:
        self._bars = bars
        self._tasks: dict[Stage, Any] = {}

    def begun(self, stage: Stage) -> None:
        self._tasks[stage] = self._bars.add_task(stage.path, total=stage.total)

    def advanced(self, stage: Stage) -> None:
        if stage in self._tasks:
            self._bars.update(self._tasks[stage], total=stage.total, completed=stage.done)

    def ended(self, stage: Stage) -> None:
        if stage in self._tasks:
            self._bars.remove_task(self._tasks.pop(stage))

    def said(self, text: str) -> None:
        self._bars.console.print(text, markup=False, highlight=False)


_listener: ContextVar[Listener] = ContextVar("listener", default=Silence())  # noqa: B039 - it has no state
_stage: ContextVar[Stage | None] = ContextVar("stage", default=None)
_noted: ContextVar[set[str] | None] = ContextVar("noted", default=None)


@contextmanager
def reporting(progress: Progress | None) -> Iterator[None]:
    """Has everything in the block reported; None leaves it to whoever listens already, if anyone.

    Args:
        progress: a callable that takes a line, a ``rich.progress.Progress``, or a `Listener`.
    """
    if progress is None:
        yield
        return
    tokens = _listener.set(_listening(progress)), _noted.set(set())
    try:
        yield
    finally:
        _listener.reset(tokens[0])
        _noted.reset(tokens[1])


def _listening(progress: Progress) -> Listener:
    if isinstance(progress, TaskBars):
        return _Bars(progress)
    return Lines(progress) if callable(progress) else progress


@contextmanager
def stage(title: str, *, whole: bool = False) -> Iterator[Stage]:
    """Reports a part of the work that begins with the block and ends with it.

    Args:
        title: what is being done, such as ``rounding``; the name of a verb.
        whole: whether it is a verb as a whole.
    """
    leave_if_asked()
    here = Stage(title, None, _stage.get(), whole)
    token, listener = _stage.set(here), _listener.get()
    try:
        listener.begun(here)
        _LOG.debug("%s …", here.path)
        yield here
    except BaseException:
        here.failed = True
        raise
    finally:
        _stage.reset(token)
        listener.ended(here)
        _LOG.info("%s %s after %.1f s", here.path, "failed" if here.failed else "ended", here.seconds)


def count(total: int | None, done: int = 0, *, unit: str = "") -> Stage:
    """Begins to count steps of the innermost stage; returns it.

    Args:
        total: number of steps, if it is known.
        done: how many were done by an earlier run.
        unit: the word for a step, such as ``image``.
    """
    here = _stage.get() or Stage("")
    here.count(total, done, unit=unit)
    return here


def advance(steps: int = 1) -> None:
    """Counts steps of the innermost stage that were done; see `Stage.advance`."""
    (_stage.get() or Stage("")).advance(steps)


def counted(items: Iterable[_Item], total: int | None = None, *, unit: str = "") -> Iterator[_Item]:
    """Yields items, and counts them as steps of the innermost stage.

    Args:
        items: what is worked on, one after the other.
        total: their number, where they have no length.
        unit: the word for one of them.
    """
    here = count(len(items) if isinstance(items, Sized) else total, unit=unit)
    for item in items:
        yield item
        here.advance()


def say(text: str) -> None:
    """Reports a sentence about the work; leaves, if the command was asked to meanwhile."""
    leave_if_asked()
    _LOG.info("%s", text)
    _listener.get().said(text)


def note(text: str) -> None:
    """Reports what the user should know of the result, once for a run however many stages find it."""
    noted = _noted.get()
    if noted is not None:
        if text in noted:
            return
        noted.add(text)
    say(f"note: {text}")


def spoken(seconds: float) -> str:
    """Returns a time as people say it: ``40 s``, ``3 min``, ``2.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
