# SPDX-License-Identifier: Apache-2.0
"""Shows on stderr how far the work is: one bar with the time left on a terminal, and plain lines elsewhere."""

from __future__ import annotations

from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from vitedge.progress import Lines, Listener, Silence, Stage, spoken
from vitedge.render import screen
from vitedge.render.text import printable

WORTH_TELLING_S = 2.0
"""Seconds from which a stage leaves a line behind on a terminal when it ends."""
_BAR_WIDTH = 20
_BESIDE_TITLE = 48
"""Columns that the bar, its figures and the number of the stage take at most."""
_REFRESHES = 2.0
"""Times a second that the bar is drawn: few, because the same processors may be measured on."""


def listener(*, quiet: bool = False, verbose: bool = False) -> Listener:
    """Returns who shows the progress of a command.

    Args:
        quiet: show nothing.
        verbose: show the time that each stage took, and what modules of vitedge log.
    """
    if quiet:
        return Silence()
    if screen.is_live():
        return Bar(verbose=verbose)
    return TimedLines() if verbose else Lines(screen.progress)


class TimedLines(Lines):
    """Lines, and the time that each stage took."""

    def __init__(self) -> None:
        super().__init__(screen.progress)

    def ended(self, stage: Stage) -> None:
        """Tells the time."""
        if not stage.failed:
            self.said(took(stage))


class Bar(Silence):
    """One bar for the innermost stage, below the lines about those that ended.

    Args:
        verbose: leave a line for short stages too.
    """

    def __init__(self, *, verbose: bool = False) -> None:
        self._least = 0.0 if verbose else WORTH_TELLING_S
        self._stage: Stage | None = None
        self._live: Live | None = None

    def begun(self, stage: Stage) -> None:
        """Draws the bar for this stage."""
        self._stage = stage
        if self._live is None:
            self._live = screen.live(self._drawn, _REFRESHES)
            self._live.start()

    def ended(self, stage: Stage) -> None:
        """Draws the bar for the stage around it; it goes with the outermost one."""
        self._stage = stage.parent
        if self._live is not None and stage.parent is None:
            self._live.stop()
            self._live = None
        if not stage.whole and not stage.failed and stage.seconds >= self._least:
            self.said(took(stage))

    def said(self, text: str) -> None:
        """Prints the sentence above the bar."""
        screen.progress(text)

    def _drawn(self) -> Table:
        """Returns the line of the bar: what is being done, how far it is, and the time left or else the time gone."""
        line = Table.grid(padding=(0, 1), expand=True)
        line.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        for _ in range(3):
            line.add_column(no_wrap=True, justify="right")
        here = self._stage
        if here is None:
            return line
        *_, outermost = here.lineage()
        counting = next((one for one in here.lineage() if one.total and not one.whole), None)
        part = f"[{min(outermost.done + 1, outermost.total)}/{outermost.total}] " if outermost.total else ""
        bar = ProgressBar(
            total=counting.total if counting else None,
            completed=counting.done if counting else 0,
            width=_BAR_WIDTH,
            pulse=counting is None,
        )
        left = counting.seconds_left if counting else None
        line.add_row(
            screen.encodable(printable(part + _fitting(here))),
            bar,
            f"{counting.done}/{counting.total}" if counting else "",
            f"{spoken(here.seconds)}" if left is None else f"{spoken(left)} left",
        )
        return line


def _fitting(stage: Stage) -> str:
    """Returns the path of a stage, or where that is too long beside the bar, its title alone."""
    return stage.path if len(stage.path) <= screen.width() - _BESIDE_TITLE else stage.title


def took(stage: Stage) -> str:
    """Returns the sentence about a stage that ended."""
    return f"{stage.path}: {stage.seconds:.1f} s" if stage.seconds < 90 else f"{stage.path}: {spoken(stage.seconds)}"
