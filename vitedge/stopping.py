# SPDX-License-Identifier: Apache-2.0
"""Handles Ctrl-C and termination: a command cleans up and exits, at the latest at its next stage."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    _Hook = Callable[[sys.UnraisableHookArgs], object]

_asked: list[int] = []
"""Numbers of the signals received so far."""
_kept: dict[str, str] = {}
"""Name of work that would not be lost, to the sentence about it."""
_PATIENCE = 3
"""The signal that ends the process at once: the first makes it clean up, which the second does not cut short."""


@contextmanager
def obeying_signals() -> Iterator[None]:
    """Makes SIGINT and SIGTERM raise SystemExit inside the block, with 128 plus the signal's number as exit code.

    A second signal leaves the cleaning up alone that the first one set off; a third one ends the process as it is.
    """
    _kept.clear()
    before = {number: signal.signal(number, _leave) for number in (signal.SIGINT, signal.SIGTERM)}
    told, sys.unraisablehook = sys.unraisablehook, _without_ours(sys.unraisablehook)
    try:
        yield
    finally:
        _asked.clear()
        sys.unraisablehook = told
        for number, handler in before.items():
            signal.signal(number, handler)


def leave_if_asked() -> None:
    """Raises the exception again after a signal: inside an import or a library's callback it may have been lost."""
    if _asked:
        raise SystemExit(128 + _asked[0])


def stopped_by(code: object) -> str:
    """Returns the name of the signal that an exit code of `obeying_signals` stands for, or empty."""
    numbers = {128 + number: number.name for number in (signal.SIGINT, signal.SIGTERM)}
    return numbers.get(code, "") if isinstance(code, int) else ""


def keep(work: str, sentence: str) -> None:
    """Notes what a command that is stopped from now on leaves behind, and how to go on.

    Args:
        work: its name; a later sentence about the same replaces this one.
        sentence: for the user; empty where nothing is left behind any more.
    """
    _kept[work] = sentence


def kept() -> tuple[str, ...]:
    """Returns the sentences about what a stopped command left behind."""
    return tuple(sentence for sentence in _kept.values() if sentence)


def _leave(number: int, _frame: object) -> None:
    _asked.append(number)
    if len(_asked) == 1:
        leave_if_asked()
    elif len(_asked) >= _PATIENCE:
        os._exit(128 + _asked[0])


def _without_ours(report: _Hook) -> _Hook:
    """Returns a hook that says nothing of a SystemExit that Python could not raise, as within a destructor."""

    def told(lost: sys.UnraisableHookArgs) -> None:
        if not (_asked and isinstance(lost.exc_value, SystemExit)):
            report(lost)

    return told
