# SPDX-License-Identifier: Apache-2.0
"""Reads JSON from files that nobody has vouched for, within bounds of memory and time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MOST_CONTAINERS = 400_000
"""Lists and objects of a document; as Python values each takes up to 250 bytes."""
MOST_VALUES = 2_500_000
"""Values of a document; each takes up to 60 bytes."""
DEEPEST = 100
"""Lists and objects within each other."""


def read_json(path: Path, most_bytes: int) -> Any:
    """Returns the content of a JSON file.

    What the document will take in memory is counted in its text before it is parsed: a few bytes of text become a
    hundred of Python's.

    Args:
        path: the file.
        most_bytes: the largest size that is read.

    Raises:
        FileNotFoundError: there is none.
        OSError: it cannot be read.
        ValueError: it is no JSON, or larger, fuller or deeper than allowed; with a phrase to go into a sentence.
    """
    if path.exists() and not path.is_file():
        raise ValueError("it is not a file")
    with path.open("rb") as file:
        text = file.read(most_bytes + 1)
    if len(text) > most_bytes:
        raise ValueError(f"it has {path.stat().st_size} bytes, and more than {most_bytes} are not read")
    return parse_json(text)


def parse_json(text: bytes) -> Any:
    """Returns the content of a JSON document, counted before it is parsed.

    Raises:
        ValueError: as of `read_json`.
    """
    opened = text.count(b"{") + text.count(b"[")
    if opened > MOST_CONTAINERS or text.count(b",") + opened > MOST_VALUES:
        raise ValueError("it holds millions of values")
    try:
        content = json.loads(text)
    except RecursionError:
        raise ValueError("its values are nested too deeply") from None
    _check_depth(content)
    return content


def _check_depth(content: Any) -> None:
    level = [content]
    for _ in range(DEEPEST):
        level = [inner for value in level if isinstance(value, (dict, list)) for inner in _values(value)]
        if not level:
            return
    raise ValueError("its values are nested too deeply")


def _values(container: dict[str, Any] | list[Any]) -> list[Any]:
    values = container.values() if isinstance(container, dict) else container
    return [value for value in values if isinstance(value, (dict, list))]
