# SPDX-License-Identifier: Apache-2.0
"""Names of classes from a file: one a line, a table, a JSON list or mapping, or a Hugging Face configuration."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vitedge.errors import BadRecipe
from vitedge.files.json_file import read_json
from vitedge.records import ModelSpec, Origin
from vitedge.sentences import short, some

SUFFIXES = (".txt", ".names", ".csv", ".tsv", ".json")
"""Suffixes of files of names."""
_LARGEST = 64 * 2**20
"""Bytes of a file that are read; a configuration with the classes of ImageNet-21k has two million."""
_CONFIGURATION = "config.json"
_KEYS = ("id2label", "label2id", "class_to_idx", "label_names", "labels", "classes", "names")
"""Keys of configurations and training logs under which the classes stand, the surest first."""
_NUMBER_COLUMNS = frozenset({"", "id", "index", "number", "idx", "class_id", "class_index", "class_idx", "label_id"})
_NAME_COLUMNS = frozenset({"name", "label", "class", "class_name", "label_name", "category", "names", "labels"})
_GENERIC = re.compile(r"LABEL_\d+")
"""What transformers calls classes that nobody has named."""


def named(spec: ModelSpec, labels: str | Sequence[str] | None) -> ModelSpec:
    """Returns a spec whose classes have names that the user gives.

    Args:
        spec: of the model.
        labels: a file of names, or the names in the order of the classes; None leaves the spec as it is.

    Raises:
        BadRecipe: the file cannot be read, or there is not one name for each class.
    """
    if labels is None:
        return spec
    return replace(spec, labels=labels_for(labels, spec.classes), origins={**spec.origins, "labels": Origin.GIVEN})


def labels_for(labels: str | Sequence[str], classes: int) -> tuple[str, ...]:
    """Returns the names of that many classes.

    Args:
        labels: a file of names, or the names in the order of the classes.
        classes: of the model; 0 is an encoder.

    Raises:
        BadRecipe: the file cannot be read, or there is not one name for each class.
    """
    names = read_labels(labels) if isinstance(labels, str) else tuple(labels)
    if classes == 0:
        raise BadRecipe("Labels name classes, and the model is an encoder without any: leave them out.")
    if len(names) == classes:
        return names
    ends = f" ({names[0]} to {names[-1]})" if len(names) > 1 else ""
    told = f"{labels} has" if isinstance(labels, str) else "There are"
    hint = " The first one may be a heading or a background class: take it out." if len(names) == classes + 1 else ""
    raise BadRecipe(
        f"{told} names of {len(names)} classes{ends}, and the model has {classes}: give those of the data that it was "
        f"trained on, one for each class in the order of their numbers.{hint}"
    )


def read_labels(source: str | Path) -> tuple[str, ...]:
    """Reads the names of classes, in the order of their numbers.

    Args:
        source: a ``.txt`` or ``.names`` with one a line; a ``.csv`` or ``.tsv`` with a column of names, and one of
            numbers if there is a second; a ``.json`` with a list, numbers to names (``id2label``), names to numbers
            (``class_to_idx``), or a configuration that has one of these; or a folder with such a ``config.json``.

    Raises:
        BadRecipe: there is no such file, it holds something else, or a number is missing or there twice.
    """
    path = Path(source)
    path = path / _CONFIGURATION if path.is_dir() else path
    if not path.is_file():
        raise BadRecipe(
            f"There is no {path}: --labels takes a file of names, one a line, or {', '.join(SUFFIXES[2:])}."
        )
    if path.suffix.lower() not in SUFFIXES:
        raise BadRecipe(f"{path} is no file of names: --labels takes one of {', '.join(SUFFIXES)}.")
    try:
        names = _READERS.get(path.suffix.lower(), _lines)(path)
    except (OSError, UnicodeDecodeError, ValueError, csv.Error) as error:
        raise BadRecipe(f"{path} cannot be read as the names of classes: {short(error)}.") from error
    if all(_GENERIC.fullmatch(name) for name in names):
        raise BadRecipe(f"{path} calls its classes {some(names)}, which are no names: give a file that has them.")
    return names


def _text(path: Path) -> str:
    with path.open("rb") as file:
        content = file.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise ValueError(f"it has more than {_LARGEST} bytes")
    return content.decode("utf-8-sig")  # spreadsheets put a mark at the beginning


def _lines(path: Path) -> tuple[str, ...]:
    names = [line.strip() for line in _text(path).rstrip().splitlines()]
    return _checked(names)


def _table(path: Path) -> tuple[str, ...]:
    separator = "\t" if path.suffix.lower() == ".tsv" else ","
    rows = [[cell.strip() for cell in row] for row in csv.reader(_text(path).splitlines(), delimiter=separator)]
    rows = [row for row in rows if any(row)]
    header = [cell.casefold() for cell in rows[0]] if rows else []
    titles = [cell in _NAME_COLUMNS for cell in header]
    if len({len(row) for row in rows}) > 1:
        raise ValueError("its rows have different numbers of columns (a name with a comma stands in quotation marks)")
    if len(header) == 1:
        return _checked([row[0] for row in rows[any(titles) :]])
    if any(titles):
        name = titles.index(True)
        number = next((place for place, cell in enumerate(header) if cell in _NUMBER_COLUMNS), None)
        return _checked([row[name] for row in rows[1:]]) if number is None else _by_number(rows[1:], number, name)
    numbers = [place for place in range(len(header)) if all(row[place].isdecimal() for row in rows)]
    if len(header) == 2 and len(numbers) == 1:
        return _by_number(rows, numbers[0], 1 - numbers[0])
    raise ValueError("it does not say which column holds the names: begin it with the line index,name")


def _by_number(rows: Iterable[Sequence[str]], number: int, name: int) -> tuple[str, ...]:
    return _ordered([(row[number], row[name]) for row in rows])


def _document(path: Path) -> tuple[str, ...]:
    content = read_json(path, _LARGEST)
    if isinstance(content, Mapping):
        found = next((content[key] for key in _KEYS if isinstance(content.get(key), (list, Mapping))), None)
        if found is None and path.name == _CONFIGURATION:
            raise ValueError(f"it has none of {', '.join(_KEYS)}")
        content = content if found is None else found
    if isinstance(content, list):
        return _checked(content)
    if isinstance(content, Mapping) and all(str(key).strip().isdecimal() for key in content):
        return _ordered([(key, _last(value)) for key, value in content.items()])
    if isinstance(content, Mapping) and all(type(value) is int for value in content.values()):
        return _ordered([(value, key) for key, value in content.items()])
    raise ValueError("it is neither a list of names, nor numbers to names, nor names to numbers")


def _last(value: Any) -> Any:
    """Returns the name in a pair of WordNet id and name, as Keras writes them."""
    return value[-1] if isinstance(value, list) and value else value


def _ordered(pairs: Sequence[tuple[Any, Any]]) -> tuple[str, ...]:
    """Returns the names of ``(number, name)`` in the order of the numbers, which begin with 0."""
    found: dict[int, Any] = {}
    for number, name in pairs:
        if not str(number).isdecimal():
            raise ValueError(f"{number!r} is no number of a class")
        if int(number) in found:
            raise ValueError(f"class {number} is there twice")
        found[int(number)] = name
    missing = next((number for number in range(len(found)) if number not in found), None)
    if missing is not None:
        counted = "they seem to be counted from 1" if missing == 0 and len(found) in found else "numbers begin with 0"
        raise ValueError(f"class {missing} is missing: {counted}")
    return _checked([found[number] for number in sorted(found)])


def _checked(names: Sequence[Any]) -> tuple[str, ...]:
    if not names:
        raise ValueError("it is empty")
    for number, name in enumerate(names):
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"class {number} has no name")
    return tuple(name.strip() for name in names)


_READERS = {".csv": _table, ".tsv": _table, ".json": _document}
"""Suffix to what reads such a file; every other one has a name a line."""
