# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C and termination: a command cleans up and leaves, at the latest at its next stage."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

_asked: list[int] = []
"""The signals that asked to leave."""


@contextmanager
def obeying_signals() -> Iterator[None]:
    """Has SIGINT and SIGTERM end what is done within, by an exception with 128 and their number as exit code."""
    before = {number: signal.signal(number, _leave) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        _asked.clear()
        for number, handler in before.items():
            signal.signal(number, handler)


def leave_if_asked() -> None:
    """Raises the exception again: what is raised amid an import or a callback of a library may get lost there."""
    if _asked:
        raise SystemExit(128 + _asked[0])


def _leave(number: int, _frame: object) -> None:
    _asked.append(number)
    leave_if_asked()
