# SPDX-License-Identifier: Apache-2.0
"""The converter of `vitedge.files.plain`: cattrs with strict types, and errors of one sentence."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from enum import Enum
from functools import cache
from itertools import repeat
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from cattrs import BaseValidationError, Converter, ForbiddenExtraKeysError
from cattrs.dispatch import StructureHook
from cattrs.errors import AttributeValidationNote, IterableValidationError, IterableValidationNote

from vitedge.errors import BadRecipe, VitedgeError

R = TypeVar("R")


def structure(kind: type[R], data: Any) -> R:
    """Returns the record of this kind that the plain values describe.

    Raises:
        BadRecipe: as `vitedge.files.plain.from_dict`.
    """
    if not isinstance(data, Mapping):
        raise BadRecipe(f"{kind.__name__} takes its entries by name; got {data!r}.")
    try:
        return CONVERTER.structure(data, kind)
    except Exception:
        return _structure_or_explain(kind, data)


def _structure_or_explain(kind: type[R], data: Any) -> R:
    """Converts once more with the detailed converter, which is slower and says where something does not fit."""
    try:
        return _converter(detailed=True).structure(data, kind)
    except BaseValidationError as error:
        raise _explained(error, kind, data) from None


def _explained(error: Exception, kind: type[Any], data: Any) -> VitedgeError:
    """Returns the first fault among nested groups of errors, as an error with one sentence."""
    name, wanted, value, record = kind.__name__, kind, data, kind
    while isinstance(error, BaseValidationError):
        record = error.cl
        error, note = _first(error)
        if isinstance(note, AttributeValidationNote):
            if note.name not in data:
                return BadRecipe(f"{record.__name__} lacks {note.name}.")
            name, wanted, value = note.name, note.type, data[note.name]
            data = value
        elif isinstance(note, IterableValidationNote):
            data = data[note.index]
    if isinstance(error, VitedgeError):  # a record refused values that are of the right types
        return error
    if isinstance(error, ForbiddenExtraKeysError):
        unknown, known = (
            ", ".join(sorted(map(str, names))) for names in (error.extra_fields, record.__dataclass_fields__)
        )
        return BadRecipe(f"{record.__name__} has no entry {unknown}; it has {known}.")
    return BadRecipe(f"{name} takes {_described(wanted)}; got {value!r}.")


def _first(group: BaseValidationError) -> tuple[Exception, str | None]:
    """Returns the error of a group to report, and the note of cattrs that says where it lies.

    An unknown key goes first, which is often a missing one misspelt, and a missing one last.
    """
    error = min(
        group.exceptions,
        key=lambda error: (isinstance(error, KeyError), not isinstance(error, ForbiddenExtraKeysError)),
    )
    return error, next(iter(getattr(error, "__notes__", ())), None)


def _described(kind: Any) -> str:
    """Returns a type as a user would write it: without the names of modules, and an enum as its values."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return " | ".join(repr(value) for value in arguments)
    if origin in (Union, UnionType):
        return " | ".join(_described(member) for member in arguments)
    if origin is tuple:
        return f"[{', '.join(_described(member) for member in arguments)}]"
    if origin is not None:
        return f"{origin.__name__}[{', '.join(_described(member) for member in arguments)}]"
    if isinstance(kind, type) and issubclass(kind, Enum):
        return " | ".join(repr(member.value) for member in kind)
    return {type(None): "None", Ellipsis: "...", Any: "Any"}.get(kind) or kind.__name__


def _structure_value(value: Any, kind: type[Any]) -> Any:
    """Checks the type of a number or a string: cattrs would convert whatever Python's constructors take."""
    if issubclass(kind, Enum):  # cattrs takes a string enum for a string
        return kind(value)
    if kind is float and isinstance(value, (int, str)) and not isinstance(value, bool):
        return float(value)
    # To Python a bool is an int.
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise TypeError("another type")
    return value


def _structure_tuple(kind: Any, converter: Converter) -> StructureHook:
    """Returns a hook that makes tuples of lists and tuples alone: cattrs would split a string into its letters."""
    members = get_args(kind)
    repeated = members[-1] is Ellipsis
    hooks = [(member, converter.get_structure_hook(member)) for member in members if member is not Ellipsis]

    def make(value: Any, _: Any) -> Any:
        if not isinstance(value, (tuple, list)) or not (repeated or len(value) == len(hooks)):
            raise TypeError("no such list")
        result = []
        kinds = repeat(hooks[0], len(value)) if repeated else hooks
        for index, (entry, (member, convert)) in enumerate(zip(value, kinds, strict=True)):
            try:
                result.append(convert(entry, member))
            except Exception as error:
                error.__notes__ = [IterableValidationNote("", index, member)]  # type: ignore[attr-defined]
                raise IterableValidationError("", [error], kind) from None
        return tuple(result)

    return make


def _structure_union(kind: Any, converter: Converter) -> StructureHook:
    """Returns a hook that makes the first member of a union that the value fits: cattrs handles unions of records."""
    optional = type(None) in get_args(kind)
    members = [(member, converter.get_structure_hook(member)) for member in _members(kind)]

    def make(value: Any, _: Any) -> Any:
        if value is None and optional:
            return None
        for member, convert in members:
            with contextlib.suppress(Exception):
                return convert(value, member)
        raise TypeError("none of these types")

    return make


def _is_tuple(kind: Any) -> bool:
    return get_origin(kind) is tuple


def _is_choice(kind: Any) -> bool:
    """Returns whether a type is a union of two types or more, None not counted: cattrs can convert the others."""
    return get_origin(kind) in (Union, UnionType) and len(_members(kind)) > 1


def _members(union: Any) -> list[Any]:
    return [member for member in get_args(union) if member is not type(None)]


@cache
def _converter(*, detailed: bool) -> Converter:
    """Returns a converter with the rules of this module; a detailed one raises groups of errors with their places."""
    converter = Converter(
        detailed_validation=detailed,
        forbid_extra_keys=True,
        unstruct_collection_overrides={tuple: list},  # JSON has lists alone
    )
    for kind in (bool, int, float, str):
        converter.register_structure_hook(kind, _structure_value)
    converter.register_structure_hook_factory(_is_tuple, _structure_tuple)
    converter.register_structure_hook_factory(_is_choice, _structure_union)
    # A subclass of str, which a recipe has for images in memory, becomes the text alone.
    converter.register_unstructure_hook(str, lambda text: text.value if isinstance(text, Enum) else str.__str__(text))
    converter.register_unstructure_hook(float, lambda number: number if math.isfinite(number) else str(number))
    return converter


CONVERTER = _converter(detailed=False)
