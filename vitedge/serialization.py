# SPDX-License-Identifier: Apache-2.0
"""Records to plain JSON values and back; an unknown key is an error."""

from __future__ import annotations

import contextlib
import dataclasses
import types
import typing
from collections.abc import Mapping
from enum import Enum
from typing import Any, TypeVar

from vitedge.errors import BadRecipe

R = TypeVar("R")


def to_dict(record: Any) -> Any:
    """Turns a record, or anything built of records, into plain JSON values. Infinities become strings."""
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        return {f.name: to_dict(getattr(record, f.name)) for f in dataclasses.fields(record)}
    if isinstance(record, Enum):
        return record.value
    if isinstance(record, Mapping):
        return {str(key): to_dict(value) for key, value in record.items()}
    if isinstance(record, (tuple, list)):
        return [to_dict(value) for value in record]
    if isinstance(record, float) and (record != record or record in (float("inf"), float("-inf"))):  # noqa: PLR0124
        return str(record)
    return record


def from_dict(kind: type[R], data: Any) -> R:
    """The inverse of `to_dict`.

    Raises:
        BadRecipe: a key that the record does not have, or a missing one.
    """
    names = {f.name for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if not isinstance(data, Mapping) or set(data) - names:
        unknown = ", ".join(sorted(set(data) - names)) if isinstance(data, Mapping) else repr(data)
        raise BadRecipe(f"{kind.__name__} has no entry {unknown}; it has {', '.join(sorted(names))}.")
    hints = typing.get_type_hints(kind)
    values = {name: _entry(hints[name], name, value) for name, value in data.items()}
    try:
        return kind(**values)
    except TypeError as error:
        raise BadRecipe(f"{kind.__name__} is incomplete: {error}.") from error


def _entry(hint: Any, name: str, value: Any) -> Any:
    try:
        return _convert(hint, value)
    except (TypeError, ValueError) as error:
        kind = hint.__name__ if isinstance(hint, type) else str(hint)
        raise BadRecipe(f"{name} takes {kind.replace('typing.', '')}; got {value!r}.") from error


def _convert(hint: Any, value: Any) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(arguments, value)
    if origin is tuple:
        if not isinstance(value, (tuple, list)):
            raise TypeError("no list")
        inner = arguments if arguments[-1] is not Ellipsis else (arguments[0],) * len(value)
        return tuple(_convert(item, entry) for item, entry in zip(inner, value, strict=True))
    if origin is not None:
        if not isinstance(value, Mapping):
            raise TypeError("no mapping")
        return {key: _convert(arguments[1], entry) for key, entry in value.items()}
    return _convert_plain(hint, value)


def _convert_plain(hint: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast("type[Any]", hint), value)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint(value)
    is_flag = isinstance(value, bool)  # which Python takes for a number
    if hint is float and isinstance(value, (int, str)) and not is_flag:
        return float(value)
    if hint in (int, float, str, bool) and (not isinstance(value, hint) or (is_flag and hint is not bool)):
        raise TypeError("another type")
    return value


def _convert_union(arguments: tuple[Any, ...], value: Any) -> Any:
    if value is None and type(None) in arguments:
        return None
    for argument in (argument for argument in arguments if argument is not type(None)):
        with contextlib.suppress(TypeError, ValueError):
            return _convert(argument, value)
    raise TypeError("none of these types")
