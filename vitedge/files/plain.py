# SPDX-License-Identifier: Apache-2.0
"""Records to plain JSON values and back; what does not fit a record is refused in one sentence.

cattrs does the work. It is imported with the first record: ``vitedge --help`` converts none and need not wait for it.
"""

from __future__ import annotations

from typing import Any, TypeVar

R = TypeVar("R")


def to_dict(record: Any) -> Any:
    """Turns a record, or a tuple, list or mapping of records, into plain JSON values.

    Args:
        record: a dataclass whose fields are records, enums, tuples, mappings, numbers, strings or None.

    Returns:
        Dictionaries, lists, numbers, strings and None. An enum is its value; infinity and NaN, which JSON does not
        have, are the strings ``inf``, ``-inf`` and ``nan``.
    """
    from vitedge.files.converter import CONVERTER

    return CONVERTER.unstructure(record)


def from_dict(kind: type[R], data: Any) -> R:
    """Returns the record that `to_dict` turned into these plain values.

    A float may be given as an int, or as a string such as ``inf``; no other value is converted to another type.

    Args:
        kind: a dataclass.
        data: names of fields to plain values; fields with a default may be left out.

    Raises:
        BadRecipe: a key that the record does not have, a missing one, or a value of another type; in nested records
            likewise.
    """
    from vitedge.files.converter import structure

    return structure(kind, data)
