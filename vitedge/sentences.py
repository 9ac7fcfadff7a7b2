# SPDX-License-Identifier: Apache-2.0
"""Formats names, the errors of libraries and the ends of processes for a sentence to the user."""

from __future__ import annotations

import difflib
import signal
from collections.abc import Iterable


def short(error: BaseException) -> str:
    """Returns the message of a library's error as one line of at most 120 characters, without a full stop."""
    text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return text if len(text) <= 120 else f"{text[:117]}..."


def abridged(value: object) -> str:
    """Returns how Python writes a value, in at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def some(names: Iterable[str], most: int = 3) -> str:
    """Returns the first few names, and the number of the others."""
    listed = list(names)
    shown = ", ".join(name[:80] for name in listed[:most]) or "nothing"
    return f"{shown} and {len(listed) - most} more" if len(listed) > most else shown


def nearest(name: str, names: Iterable[str]) -> str:
    """Returns ``; did you mean NAME?`` for the name that looks most like a wrong one; a full stop where none does."""
    found = difflib.get_close_matches(name.lower(), list(names), n=1)
    return f"; did you mean {found[0]}?" if found else "."


def fate(code: int) -> str:
    """Returns how a process ended, from its exit code: negative where a signal killed it."""
    if code >= 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    return f"was killed by {name}" + (", perhaps for want of memory," if name == "SIGKILL" else "")
