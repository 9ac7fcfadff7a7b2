# SPDX-License-Identifier: Apache-2.0
"""Prints tables, sentences and JSON documents for the renderers.

Results go to stdout, progress and errors to stderr. Tables fit 80 columns.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from vitedge.files.plain import to_dict
from vitedge.stopping import leave_if_asked

# Names come from the user: a bracket or a colon in one is no markup.
_OUT = Console(highlight=False, soft_wrap=False, markup=False, emoji=False)
_ERR = Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)


def progress(text: str) -> None:
    """Prints one line about the work in progress on stderr; leaves, if the command was asked to meanwhile."""
    leave_if_asked()
    _ERR.print(text, style="dim")


def error(text: str) -> None:
    """Prints one sentence about an error on stderr."""
    _ERR.print(f"vitedge: {text}")


def show(drawn: Table) -> None:
    """Prints a table on stdout."""
    _OUT.print(drawn)


def lines(*sentences: str) -> None:
    """Prints sentences on stdout, a line each without breaks, so that paths and commands in them can be copied."""
    for line in sentences:
        _OUT.print(line, soft_wrap=True)


def document(record: Any) -> None:
    """Prints a record as exactly one JSON document on stdout."""
    json.dump(to_dict(record), sys.stdout, indent=1, ensure_ascii=False, allow_nan=False)
    sys.stdout.write("\n")


def table(*headers: str, right: Iterable[int] = ()) -> Table:
    """Returns a table without rows.

    Args:
        headers: of the columns; those after the second are never wrapped.
        right: numbers of the columns that are aligned to the right.
    """
    drawn = Table(box=box.SIMPLE_HEAD, show_header=any(headers), pad_edge=False, padding=(0, 1, 0, 0))
    rights = set(right)
    for index, header in enumerate(headers):
        drawn.add_column(header, justify="right" if index in rights else "left", overflow="fold", no_wrap=index > 1)
    return drawn


def short_path(text: str) -> str:
    """Returns a path, or the end of one that is too long for a table."""
    return text if len(text) <= 40 else f"…{text[-39:]}"


def next_command(command: str) -> str:
    """Returns the last line of a command's output, which says what to type next."""
    return f"next: {command}"
