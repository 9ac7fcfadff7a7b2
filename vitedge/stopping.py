# SPDX-License-Identifier: Apache-2.0
"""Handles Ctrl-C and termination: a command cleans up and exits, at the latest at its next stage."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

_asked: list[int] = []
"""Numbers of the signals received so far."""


@contextmanager
def obeying_signals() -> Iterator[None]:
    """Makes SIGINT and SIGTERM raise SystemExit inside the block, with 128 plus the signal's number as exit code."""
    before = {number: signal.signal(number, _leave) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        _asked.clear()
        for number, handler in before.items():
            signal.signal(number, handler)


def leave_if_asked() -> None:
    """Raises the exception again after a signal: inside an import or a library's callback it may have been lost."""
    if _asked:
        raise SystemExit(128 + _asked[0])


def _leave(number: int, _frame: object) -> None:
    _asked.append(number)
    leave_if_asked()
