# SPDX-License-Identifier: Apache-2.0
"""Renders what is in the user's cache."""

from __future__ import annotations

from rich.filesize import decimal

from vitedge.files.cache import LIMIT_VARIABLE, CacheUsage
from vitedge.files.plain import to_dict
from vitedge.render.screen import document, lines, show, table

_SAID_BY = {"default": "the default", "chosen": "chosen with --limit", LIMIT_VARIABLE: f"from {LIMIT_VARIABLE}"}


def render(usage: CacheUsage, *, as_json: bool) -> None:
    """Prints where the cache is, what is in it, and what it keeps to."""
    if as_json:
        return document({**to_dict(usage), "size": usage.size})
    drawn = table("kind", "holds", "entries", "size", right=(2, 3))
    for kind in usage.kinds:
        drawn.add_row(kind.name, kind.holds, str(kind.entries), decimal(kind.size))
    show(drawn)
    lines(
        *([f"dropped: {usage.dropped} entries"] if usage.dropped else []),
        f"{usage.folder}: {decimal(usage.size)} of at most {decimal(usage.limit)} ({_SAID_BY[usage.limit_from]}); "
        "what was used least recently goes first",
    )
    return None
