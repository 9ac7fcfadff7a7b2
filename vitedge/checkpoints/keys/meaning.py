# SPDX-License-Identifier: Apache-2.0
"""The kinds of meaning that a key of a configuration can have, and the kinds of value that it can hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vitedge.records import ModelSpec

LARGEST = 10**6
"""No width, depth, size or ratio of a vision transformer comes near it: a larger number is damage."""


DEEPEST = 1000
"""Most layers of a network that is built to be held against its weights."""


@dataclass(frozen=True)
class Fact:
    """A key that says what the spec of the model says, too: read from the key, or told by the weights."""

    field: str
    """Field of `ModelSpec`, or ``options.NAME``. What the user says of it goes before the key."""
    kind: Callable[[Any], bool]
    """Returns whether a value is of the key's type."""
    agrees: Callable[[Any, ModelSpec], bool]
    """Returns whether a value of that kind says the same as the spec."""
    shown: Callable[[ModelSpec], Any]
    """Returns the value that the key would have for this spec, for the message."""


@dataclass(frozen=True)
class Read:
    """A key that a family reads for itself and that no shape can contradict."""

    kind: Callable[[Any], bool]


@dataclass(frozen=True)
class Irrelevant:
    """A key that no output of the exported model depends on."""

    reason: str


@dataclass(frozen=True)
class Only:
    """A key that changes the computation in a way that cannot be rebuilt, unless it has one of these values."""

    values: tuple[Any, ...]


Meaning = Fact | Read | Irrelevant | Only
Table = Mapping[str, Meaning]
"""Key to its meaning."""


def is_number(value: Any) -> bool:
    """Returns whether a value is a finite number of a likely size."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LARGEST


def is_count(value: Any) -> bool:
    """Returns whether a value is a whole number, zero or more."""
    return is_number(value) and value >= 0 and int(value) == value


def is_depth(value: Any) -> bool:
    """Returns whether a value is a likely number of layers."""
    return is_count(value) and value <= DEEPEST


def is_positive(value: Any) -> bool:
    """Returns whether a value is a number above zero."""
    return is_number(value) and value > 0


def is_flag(value: Any) -> bool:
    """Returns whether a value is true or false."""
    return isinstance(value, bool) or value in (0, 1)


def is_first_scale(value: Any) -> bool:
    """Returns whether a value is what the scales of layers start at: zero or false means that there are none."""
    return isinstance(value, bool) or (is_number(value) and value >= 0)


def is_name(value: Any) -> bool:
    """Returns whether a value is a text."""
    return isinstance(value, str)


def is_size(value: Any) -> bool:
    """Returns whether a value is an edge, a pair of height and width, or ``{"height": …, "width": …}``."""
    if isinstance(value, Mapping):
        value = [value.get("height", value.get("shortest_edge")), value.get("width", value.get("shortest_edge"))]
    edges = value if isinstance(value, (list, tuple)) else [value, value]
    return len(edges) == 2 and all(is_count(edge) and edge > 0 for edge in edges)


def is_label_table(value: Any) -> bool:
    """Returns whether a value is a list of names, or a mapping with a number in front of each."""
    if isinstance(value, Mapping):
        return all(str(key).isdecimal() for key in value) and all(is_name(name) for name in value.values())
    return isinstance(value, (list, tuple)) and all(is_name(name) for name in value)


def is_label_mapping(value: Any) -> bool:
    """Returns whether a value maps whole numbers, zero or more, to names, as ``id2label`` does."""
    return isinstance(value, Mapping) and is_label_table(value)


def is_epsilon(value: Any) -> bool:
    """Returns whether a value is a number between zero and one, as the epsilon of a norm is."""
    return is_number(value) and 0 < value < 1


def is_share(value: Any) -> bool:
    """Returns whether a value is a number above zero and at most one."""
    return is_number(value) and 0 < value <= 1


def is_statistics(value: Any) -> bool:
    """Returns whether a value is a list of numbers, one for each channel."""
    return isinstance(value, (list, tuple)) and bool(value) and all(is_number(entry) for entry in value)


def is_deviations(value: Any) -> bool:
    """Returns whether a value is a list of numbers above zero, one for each channel."""
    return is_statistics(value) and all(entry > 0 for entry in value)


def is_input_size(value: Any) -> bool:
    """Returns whether a value is channels, height and width."""
    return isinstance(value, (list, tuple)) and len(value) == 3 and all(is_count(n) and n > 0 for n in value)


def is_possible(meaning: Meaning | None, value: Any) -> bool:
    """Returns whether a value is one that a key of this meaning can have."""
    if isinstance(meaning, (Fact, Read)):
        return meaning.kind(value)
    return not isinstance(meaning, Only) or value in meaning.values


def each(kind: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Returns the check of a list whose entries are of a kind, or of one such value for all stages."""
    return lambda value: all(kind(entry) for entry in value) if isinstance(value, (list, tuple)) else kind(value)


def per_stage(value: Any, stages: int) -> tuple[Any, ...]:
    """Returns one entry for each stage, from a list or from one value for all."""
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,) * stages
