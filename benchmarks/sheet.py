# SPDX-License-Identifier: Apache-2.0
"""The rows of a benchmark and the file that they are kept in: what is measured again replaces what was there."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from vitedge.files.plain import from_dict

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Row = TypeVar("Row", bound="DataclassInstance")


class Sheet(Generic[Row]):
    """Rows in a file, which is written anew with each, so that an interrupted run leaves what it has measured.

    Args:
        path: of the file; its rows are read, where it is there.
        kind: dataclass of a row.
        place: what a row is of, as something to sort by: the row before it of the same place goes.
        missed: returns the limits that rows miss, each as a sentence.
        head: what stands above the rows.
    """

    def __init__(
        self,
        path: Path,
        kind: type[Row],
        place: Callable[[Row], Any],
        missed: Callable[[Sequence[Row]], list[str]],
        head: Mapping[str, Any],
    ) -> None:
        self._path, self._place, self._missed, self._head = path, place, missed, head
        kept = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
        self._rows = {place(row): row for row in (from_dict(kind, content) for content in kept)}

    def put(self, row: Row) -> None:
        """Adds a row, or replaces it."""
        self._rows[self._place(row)] = row
        rows = self._ordered()
        content = {**self._head, "rows": [asdict(row) for row in rows], "missed": self._missed(rows)}
        self._path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    def places(self) -> set[Any]:
        """Returns what there are rows of."""
        return set(self._rows)

    def finish(self) -> NoReturn:
        """Says what is missed, and ends the script: with exit code 1 if anything is."""
        missed = self._missed(self._ordered())
        print(f"missed: {'; '.join(missed) or 'nothing'}; {self._path}")
        sys.exit(bool(missed))

    def _ordered(self) -> list[Row]:
        return [self._rows[place] for place in sorted(self._rows)]


def parser(description: str | None, what: str, choices: Iterable[str], results: Path) -> argparse.ArgumentParser:
    """For a script that measures all of its choices, or those that are named: ``chosen``, and ``output``."""
    known = list(choices)
    result = argparse.ArgumentParser(description=description)
    told = f"of {', '.join(known)}; all if none is given"
    result.add_argument("chosen", nargs="*", metavar=what, default=known, help=told)
    result.add_argument("-o", "--output", type=Path, default=results)
    return result
