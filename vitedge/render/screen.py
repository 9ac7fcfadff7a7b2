# SPDX-License-Identifier: Apache-2.0
"""Prints tables, sentences and JSON documents for the renderers.

Results go to stdout, progress and errors to stderr. Tables fit 80 columns. What a terminal would act on, and what the
stream cannot encode, is shown as escapes.
"""

from __future__ import annotations

import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from rich import box
from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from vitedge.files.plain import to_dict
from vitedge.render.text import FALLBACK, Folded, printable, printable_json, shortened

_NARROWEST = 40
"""Columns below which no table can be read: a terminal that claims fewer, as ``COLUMNS=0`` does, is taken for 80."""
_COLOURS = {
    "passed": "green",
    "works": "green",
    "FAILED": "bold red",
    "broken": "bold red",
    "missing": "yellow",
}
"""Text of a cell to its colour; Rich leaves colours out for NO_COLOR, and where stdout is no terminal."""
_BAD = ("FAILED", "NOT valid", "NOT pass")
"""Words of a sentence that are shown in red."""
_COMMAND = re.compile(r"(?<![\w.])(vitedge|pip|python3?|make|sudo|ssh|adb) [\w'-]")
"""What begins a command, in a sentence."""
_LONGEST_VALUE = 34
"""Characters of a value that is never wrapped; the middle of a longer one is left out."""


def _width() -> int | None:
    """Returns the columns to draw for where the environment names a useless number; None lets Rich find out."""
    named = os.environ.get("COLUMNS", "")
    return 80 if named.isdecimal() and int(named) < _NARROWEST else None


class _Screen(Console):
    """A console whose failures to write are raised: `vitedge.cli.main` answers them, for every kind of output."""

    def on_broken_pipe(self) -> None:
        """Raises the error that Rich would turn into an exit code of its own."""
        raise  # noqa: PLE0704 - Rich calls this while it handles the error

    def show_cursor(self, show: bool = True) -> bool:  # noqa: ARG002, FBT001, FBT002 - as Rich has it
        """Leaves the cursor as it is: a process that is killed below a bar could not show it again."""
        return False


_PAGE = 110
"""Columns of a table in a notebook."""
_PREFORMATTED = '<pre style="white-space:pre; overflow-x:auto; line-height:normal">{code}</pre>'
_parts: ContextVar[list[RenderableType] | None] = ContextVar("parts", default=None)
"""Where `collected` keeps what would be printed."""

# Names come from the user: a bracket or a colon in one is no markup.
_OUT = _Screen(highlight=False, soft_wrap=False, markup=False, emoji=False, width=_width())
_ERR = _Screen(stderr=True, highlight=False, soft_wrap=False, markup=False, emoji=False, width=_width())


class _Cells(Table):
    """A table whose cells come from files: they are shown as `vitedge.render.text` says."""

    def add_row(self, *cells: RenderableType | None, **options: Any) -> None:
        """Adds a row; texts in the first two columns are folded at separators, in the others shortened."""
        super().add_row(*(self._cell(index, cell) for index, cell in enumerate(cells)), **options)

    @staticmethod
    def _cell(index: int, cell: RenderableType | None) -> RenderableType | None:
        if not isinstance(cell, str):
            return cell
        if cell in _COLOURS:
            return Text(cell, _COLOURS[cell])
        if index < 2:
            return Folded(encodable(shortened(printable(cell))))
        return "\n".join(encodable(shortened(printable(line), _LONGEST_VALUE)) for line in cell.split("\n"))


def encodable(text: str) -> str:
    """Returns a text as stdout's encoding shows it, before the columns of a table are measured."""
    encoding = _OUT.encoding
    return text if encoding.startswith("utf") else text.encode(encoding, FALLBACK).decode(encoding)


_documents: list[str] = []
"""Types of the records that were printed as JSON by this command: there is one document at most."""


def prepare_streams() -> None:
    """Lets stdout and stderr take every character, whatever their encoding: what it lacks is replaced."""
    _documents.clear()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=FALLBACK)


def progress(text: str) -> None:
    """Prints one line about the work in progress on stderr."""
    _sentence(_ERR, Text(printable(text), "dim"))


def is_live() -> bool:
    """Returns whether stderr is a terminal on which a line can be drawn again."""
    return _ERR.is_terminal and not _ERR.is_dumb_terminal


def width() -> int:
    """Returns the columns of stderr."""
    return _ERR.width


def live(draw: Callable[[], RenderableType], refreshes: float) -> Live:
    """Returns an area at the end of stderr that is drawn again so many times a second, and is gone when it stops.

    What libraries print on stderr meanwhile appears above it; stdout is left alone.
    """
    return Live(console=_ERR, get_renderable=draw, refresh_per_second=refreshes, transient=True, redirect_stdout=False)


def error(text: str) -> None:
    """Prints one sentence about an error on stderr."""
    _sentence(_ERR, Text.assemble(("vitedge: ", "bold red"), printable(text)))


@contextmanager
def collected() -> Iterator[list[RenderableType]]:
    """Keeps what would be printed on stdout for whoever shows it in another place than a command's output."""
    parts: list[RenderableType] = []
    token = _parts.set(parts)
    try:
        yield parts
    finally:
        _parts.reset(token)


def as_text(drawn: RenderableType) -> str:
    """Returns something drawn as plain text, as wide as the terminal."""
    console = Console(file=io.StringIO(), width=_OUT.width, color_system=None, highlight=False, emoji=False)
    with console.capture() as captured:
        console.print(drawn)
    return "\n".join(line.rstrip() for line in captured.get().splitlines()).strip("\n")


def as_html(drawn: RenderableType) -> str:
    """Returns something drawn as HTML, for a notebook."""
    console = Console(file=io.StringIO(), width=_PAGE, record=True, force_jupyter=False, highlight=False, emoji=False)
    console.print(drawn)
    return console.export_html(inline_styles=True, code_format=_PREFORMATTED)


def show(drawn: Table, title: str = "") -> None:
    """Prints a table on stdout, below a line that says what it shows where its columns do not."""
    parts = _parts.get()
    if parts is not None:
        parts += [*([Text(title)] if title else []), drawn]
        return
    if title:
        lines("", title)
    _OUT.print(drawn)


def lines(*sentences: str) -> None:
    """Prints sentences on stdout."""
    parts = _parts.get()
    if parts is not None:
        parts += [_coloured(line) for line in sentences if line]
        return
    for line in sentences:
        _sentence(_OUT, _coloured(line))


def _sentence(console: Console, drawn: Text) -> None:
    """Prints a sentence: on a terminal in lines that end between words.

    A command and a long path stay whole: what is copied from a line that the terminal itself broke is one line.
    """
    is_copied = _COMMAND.search(drawn.plain) or any(len(word) > console.width for word in drawn.plain.split())
    console.print(drawn, soft_wrap=bool(is_copied) or not console.is_terminal)


def _coloured(line: str) -> Text:
    """Returns a sentence in which what went wrong stands out."""
    drawn = Text(printable(line))
    drawn.highlight_words(_BAD, "bold red")
    return drawn


def document(record: Any) -> None:
    """Prints a record as exactly one JSON document on stdout."""
    _documents.append(type(record).__name__)
    text = json.dumps(to_dict(record), indent=1, ensure_ascii=False, allow_nan=False)
    if not (sys.stdout.encoding or "").lower().startswith("utf"):
        text = json.dumps(json.loads(text), indent=1)  # pure ASCII
    sys.stdout.write(f"{printable_json(text)}\n")
    sys.stdout.flush()


def has_document() -> bool:
    """Returns whether this command has printed its document."""
    return bool(_documents)


def table(*headers: str, right: Iterable[int] = ()) -> Table:
    """Returns a table without rows.

    Args:
        headers: of the columns; those after the second are never wrapped.
        right: numbers of the columns that are aligned to the right.
    """
    drawn = _Cells(box=box.SIMPLE_HEAD, show_header=any(headers), pad_edge=False, padding=(0, 1, 0, 0))
    rights = set(right)
    for index, header in enumerate(headers):
        drawn.add_column(header, justify="right" if index in rights else "left", overflow="fold", no_wrap=index > 1)
    return drawn


def short_path(text: str) -> str:
    """Returns a path, or the end of one that is too long for a table."""
    return text if len(text) <= 40 else f"…{text[-39:]}"


def next_command(command: str) -> str:
    """Returns the last line of a command's output, which says what to type next; nothing where no command was typed."""
    return f"next: {command}" if _parts.get() is None else ""
