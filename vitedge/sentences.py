# SPDX-License-Identifier: Apache-2.0
"""Putting names and the errors of libraries into one sentence for the user."""

from __future__ import annotations

from collections.abc import Iterable


def short(error: BaseException) -> str:
    """The error of a library as part of one sentence: one line, at most 120 characters."""
    text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return text if len(text) <= 120 else f"{text[:117]}..."


def some(names: Iterable[str], most: int = 3) -> str:
    """The first few names, and how many more there are."""
    listed = list(names)
    shown = ", ".join(name[:80] for name in listed[:most]) or "nothing"
    return f"{shown} and {len(listed) - most} more" if len(listed) > most else shown
