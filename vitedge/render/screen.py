# SPDX-License-Identifier: Apache-2.0
"""What the renderers draw with: the two streams, tables, sentences, and the one JSON document.

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

# Names are the user's own: a bracket or a colon in one is no markup.
_OUT = Console(highlight=False, soft_wrap=False, markup=False, emoji=False)
_ERR = Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)


def progress(text: str) -> None:
    """One line about what is being done; where the command was asked to leave meanwhile, it does."""
    leave_if_asked()
    _ERR.print(text, style="dim")


def error(text: str) -> None:
    """One sentence about what went wrong."""
    _ERR.print(f"vitedge: {text}")


def show(drawn: Table) -> None:
    """A table, on stdout."""
    _OUT.print(drawn)


def lines(*sentences: str) -> None:
    """Sentences, which are not broken: what stands in them may be copied."""
    for line in sentences:
        _OUT.print(line, soft_wrap=True)


def document(record: Any) -> None:
    """A record as exactly one JSON document, on stdout."""
    json.dump(to_dict(record), sys.stdout, indent=1, ensure_ascii=False, allow_nan=False)
    sys.stdout.write("\n")


def table(*headers: str, right: Iterable[int] = ()) -> Table:
    """A table without rows; ``right`` numbers the columns set to the right, and all but the first two stay unbroken."""
    drawn = Table(box=box.SIMPLE_HEAD, show_header=any(headers), pad_edge=False, padding=(0, 1, 0, 0))
    rights = set(right)
    for index, header in enumerate(headers):
        drawn.add_column(header, justify="right" if index in rights else "left", overflow="fold", no_wrap=index > 1)
    return drawn


def short_path(text: str) -> str:
    """The end of a path that is too long for a table."""
    return text if len(text) <= 40 else f"…{text[-39:]}"


def next_command(command: str) -> str:
    """The last line of a command: what to type now."""
    return f"next: {command}"
