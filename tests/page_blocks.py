# SPDX-License-Identifier: Apache-2.0
"""Reads the fenced blocks of a page: those that are run, those that show what is seen, those that say why not.

A ``console`` block holds commands, a ``python`` block statements, a ``text`` block something to look at. A comment
``<!-- not run: REASON -->`` above a block keeps it from being run.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
GENERATED = ("cli.md", "api.md")
"""Pages that other tests compare with what they are generated from, and whose examples they run."""
PAGES = sorted({ROOT / "README.md", *(ROOT / "docs").rglob("*.md")} - {ROOT / "docs" / name for name in GENERATED})
LANGUAGES = ("console", "python", "text")
_BLOCK = re.compile(r"(?:<!-- not run: (?P<reason>.+?) -->\n)?^```(?P<language>.*)\n(?P<text>(?:.*\n)*?)```$", re.M)
_EXIT = re.compile(r"# exit code (\d+)$")


@dataclass(frozen=True)
class Typed:
    """One line of a console."""

    words: tuple[str, ...]
    code: int
    """The exit code that the line says; 0 where it says none."""


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    language: str
    text: str
    reason: str
    """Why it is not run; empty where it is."""

    def commands(self) -> Iterator[Typed]:
        """Yields the lines of a console, without comments."""
        for line in self.text.splitlines():
            said = _EXIT.search(line)
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if words:
                yield Typed(tuple(words), int(said[1]) if said else 0)


def blocks(page: Path) -> list[Block]:
    """Returns the blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [Block(found["language"], found["text"], found["reason"] or "") for found in _BLOCK.finditer(text)]
