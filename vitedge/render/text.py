# SPDX-License-Identifier: Apache-2.0
"""Makes text from files fit for a terminal: no control characters, no more than its encoding has, names folded.

Names and labels come from files that nobody has vouched for. A control character in one could move the cursor, a
bidirectional mark could reorder a line, and a character that the stream's encoding does not have would end the command.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.text import Text

FALLBACK = "vitedge-fallback"
"""Name of the error handler of characters that a stream cannot encode, known to Python when this module is imported."""
LONGEST_CELL = 120
"""Characters of a text that a table shows whole; the middle of a longer one is left out."""
_HIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\ud800-\udfff\ufeff\ufff9-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0001-\U000e007f]"
)
"""Characters that are never shown: Unicode's categories Cc (controls), Cf (bidirectional marks and other formats), Cs
(surrogates), Zl and Zp (breaks of lines and paragraphs)."""
_ASCII = {
    "…": "...",
    "\u2013": "-",
    "—": "-",
    "\u2212": "-",
    "µ": "u",
    "μ": "u",
    "Δ": "d",
    "\u00d7": "x",
    "≤": "<=",
    "≥": ">=",
}
"""What dashes, dots and signs are where the encoding has no others."""
_PIECES = re.compile(r"[^\s/\\._:,-]*[\s/\\._:,-]+|[^\s/\\._:,-]+")
"""Parts between which a name may be broken: a separator stays at the end of the part before it."""


def printable(text: str) -> str:
    """Returns a text with every character that a terminal would act on as its escape, as Python writes it."""
    return _HIDDEN.sub(lambda found: ascii(found[0])[1:-1], text)


def printable_json(document: str) -> str:
    """Returns a JSON document with such characters as JSON's own escapes; line breaks between its entries stay."""
    return _HIDDEN.sub(lambda found: found[0] if found[0] == "\n" else _json_escaped(found[0]), document)


def shortened(text: str, most: int = LONGEST_CELL) -> str:
    """Returns a text of at most so many characters: the beginning and the end of a longer one."""
    if len(text) <= most:
        return text
    front = (most - 1) // 2
    return f"{text[:front]}…{text[len(text) - (most - 1 - front) :]}"


class Folded:
    """A cell of a table whose text is broken after spaces and separators of names, and within a part only if it must.

    Args:
        text: without line breaks.
    """

    def __init__(self, text: str) -> None:
        self.text = text

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        """Returns the width of the longest part, and of the whole."""
        widths = [len(piece.rstrip()) for piece in _PIECES.findall(self.text)]
        return Measurement(max(widths, default=0), Text(self.text).cell_len).with_maximum(options.max_width)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yields the lines."""
        for line in folded(self.text, options.max_width):
            yield Text(line, no_wrap=True, overflow="fold")


def folded(text: str, width: int) -> list[str]:
    """Returns a text in lines of at most ``width`` columns of a terminal."""
    lines = [""]
    for piece in _cut(text, max(width, 1)):
        if Text(lines[-1] + piece.rstrip()).cell_len > width:
            lines.append("")
        lines[-1] += piece
    return [line.rstrip() for line in lines]


def _cut(text: str, width: int) -> Iterator[str]:
    """Yields the parts of a text; one that is wider than a line in pieces of characters."""
    for piece in _PIECES.findall(text):
        if Text(piece.rstrip()).cell_len <= width:
            yield piece
        else:
            yield from piece


def _json_escaped(char: str) -> str:
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


def _fallback(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(_ASCII.get(char) or char.encode("ascii", "backslashreplace").decode() for char in text), error.end


codecs.register_error(FALLBACK, _fallback)
