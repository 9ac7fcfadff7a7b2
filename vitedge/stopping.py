# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C and termination: a command cleans up and leaves, at the latest at its next stage."""

from __future__ import annotations

import signal

_asked: list[int] = []
"""The signals that asked to leave."""


def obey_signals() -> None:
    """From now on SIGINT and SIGTERM end the process by an exception, with 128 and their number as exit code."""
    _asked.clear()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)


def leave_if_asked() -> None:
    """Raises the exception again: what is raised amid an import or a callback of a library may get lost there."""
    if _asked:
        raise SystemExit(128 + _asked[0])


def _leave(number: int, _frame: object) -> None:
    _asked.append(number)
    leave_if_asked()
