# SPDX-License-Identifier: Apache-2.0
"""Settings that are said one by one, in a recipe, or in both: once, or alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar

from vitedge.errors import BadRecipe
from vitedge.records import Preprocessing
from vitedge.sentences import abridged

R = TypeVar("R")
_SPELLINGS = {"crop_pct": "crop"}
"""Name in timm's ``pretrained_cfg`` to that of the field."""


def combined(kind: type[R], recipe: R | None, said: Mapping[str, Any]) -> R:
    """Returns a recipe with the settings that were said beside it.

    Args:
        kind: the dataclass.
        recipe: where settings may be said together; an entry that is its default was not said.
        said: fields to values; None was not said.

    Raises:
        BadRecipe: the two say a setting differently, or a value that the recipe refuses.
    """
    entries = {name: value for name, value in said.items() if value is not None}
    if recipe is None:
        return kind(**entries)
    if not isinstance(recipe, kind):
        raise BadRecipe(f"recipe takes {kind.__name__}; got {type(recipe).__name__}.")
    own = _said(recipe)
    for name, value in entries.items():
        if name in own and own[name] != value:
            if isinstance(value, Mapping) and isinstance(own[name], Mapping):
                entries[name] = joined(name, own[name], value)
                continue
            _refuse_twice(name, own[name], value)
    return kind(**{**own, **entries})


def _said(recipe: Any) -> dict[str, Any]:
    """Returns the entries of a recipe that are not their default."""
    found = {}
    for entry in fields(recipe):
        default = entry.default_factory() if entry.default_factory is not MISSING else entry.default
        value = getattr(recipe, entry.name)
        if default is MISSING or value != default:
            found[entry.name] = value
    return found


def _refuse_twice(name: str, first: object, second: object) -> None:
    raise BadRecipe(
        f"{name} is {abridged(_plain(first))} in one place and {abridged(_plain(second))} in another: say it once."
    )


def _plain(value: object) -> object:
    return str(value) if isinstance(value, str) else value


def joined(name: str, first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Returns two mappings as one.

    Raises:
        BadRecipe: they differ in an entry.
    """
    for key in first.keys() & second.keys():
        if first[key] != second[key]:
            _refuse_twice(f"{name}[{key!r}]", first[key], second[key])
    return {**first, **second}


def facts(
    overrides: Mapping[str, Any] | None,
    labels: Sequence[str] | Mapping[Any, Any] | None = None,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Returns everything that a user states about a model, as overrides.

    Args:
        overrides: fields of ModelSpec or Preprocessing to values.
        labels: names of the classes, in their order or by their number.
        preprocessing: how images are prepared.

    Raises:
        BadRecipe: labels that are no names, or a fact that is stated twice, differently.
    """
    stated: dict[str, Any] = {}
    if labels is not None:
        stated["labels"] = class_names(labels)
    if preprocessing is not None:
        stated |= _preprocessing(preprocessing)
    return joined("overrides", dict(overrides or {}), stated)


def _preprocessing(preprocessing: Preprocessing | Mapping[str, Any]) -> dict[str, Any]:
    if is_dataclass(preprocessing):
        return {entry.name: getattr(preprocessing, entry.name) for entry in fields(preprocessing)}
    if not isinstance(preprocessing, Mapping):
        raise BadRecipe(
            "preprocessing takes a mapping such as {'mean': (0.5, 0.5, 0.5), 'std': (0.5, 0.5, 0.5)}; got "
            f"{type(preprocessing).__name__}."
        )
    named = {_SPELLINGS.get(name, name): value for name, value in preprocessing.items()}
    known = [entry.name for entry in fields(Preprocessing)]
    strangers = [name for name in named if name not in known]
    if strangers:
        raise BadRecipe(f"preprocessing has no {', '.join(map(str, strangers))}; there is {', '.join(known)}.")
    return named


def class_names(labels: Sequence[str] | Mapping[Any, Any]) -> tuple[str, ...]:
    """Returns the names of classes in their order.

    Args:
        labels: names in the order of the classes; numbers to names, as transformers' ``id2label``; or names to numbers.

    Raises:
        BadRecipe: a number that is missing, or what is no name.
    """
    if isinstance(labels, Mapping):
        return _ordered(labels)
    names = [labels] if isinstance(labels, str) else list(labels)
    if isinstance(labels, str) or not all(isinstance(name, str) for name in names):
        raise BadRecipe(
            f"labels takes the names of the classes, such as ['cat', 'dog']; got {abridged(labels)}: the class of an "
            "image goes beside it, as in images=zip(images, classes)."
        )
    return tuple(names)


def _ordered(labels: Mapping[Any, Any]) -> tuple[str, ...]:
    pairs = [(name, number) if isinstance(number, int) else (number, name) for name, number in labels.items()]
    try:
        numbered = {int(number): str(name) for name, number in pairs}
    except (TypeError, ValueError) as error:
        raise BadRecipe(f"labels maps numbers to names, such as {{0: 'cat'}}; got {abridged(labels)}.") from error
    if sorted(numbered) != list(range(len(labels))):
        raise BadRecipe(f"labels has {len(labels)} entries, and not each number from 0 to {len(labels) - 1} once.")
    return tuple(numbered[number] for number in range(len(labels)))


def size(image_size: int | Sequence[int] | None) -> tuple[int, int] | None:
    """Returns height and width; one number is both.

    Raises:
        BadRecipe: it is neither one nor two numbers.
    """
    if image_size is None or isinstance(image_size, int):
        return None if image_size is None else (image_size, image_size)
    found = tuple(image_size)
    if len(found) != 2:
        raise BadRecipe(f"image_size is one number, or a height and a width; got {image_size!r}.")
    return found


def several(names: str | Sequence[str] | None) -> tuple[str, ...] | None:
    """Returns one name or several as a tuple; None was not said."""
    return None if names is None else (names,) if isinstance(names, str) else tuple(names)
