# SPDX-License-Identifier: Apache-2.0
"""Translates names of folders and labels to the numbers of a model's classes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from vitedge.errors import BadImages
from vitedge.records import ModelSpec, Origin
from vitedge.sentences import some

_WORDNET_ID = re.compile(r"n\d{8}")
_SYNSET = re.compile(r"\s*(n\d{8})[\s,:]+(.+)")
_NUMBER = re.compile(r"[+-]?\d+")
_IMAGENET = 1000
"""Classes of ImageNet-1k, whose WordNet ids timm knows."""


@dataclass(frozen=True)
class Classes:
    """The classes of a model."""

    count: int
    names: tuple[str, ...] = ()
    """Names in the order of the class numbers, or empty where they are not known."""
    given: bool = False
    """Whether a user gave them: class folders are called so then, and not counted in the order of their names."""


def classes_of(spec: ModelSpec) -> Classes:
    """Returns the classes of a model."""
    return Classes(spec.classes, spec.labels, given=spec.origins.get("labels") is Origin.GIVEN)


def number_folders(folders: Sequence[str], classes: Classes) -> tuple[dict[str, int], str]:
    """Returns the class number of every class folder.

    Args:
        folders: names, in any order.
        classes: the classes of the model.

    Returns:
        Folder name to class number, and a sentence if the numbers were inferred from the order of the names, or empty.

    Raises:
        BadImages: more folders than classes; names that are the model's beside names that are not; or fewer folders
            than classes whose names tell nothing.
    """
    if len(folders) > classes.count:
        has = "only one class" if classes.count == 1 else f"only {classes.count} classes"
        raise BadImages(f"There are {len(folders)} class folders, and the model has {has}; no folder may be left over.")
    known = _numbers_of_names(classes)
    found = {folder: known[_plain(folder)] for folder in folders if _plain(folder) in known}
    if found:
        strangers = [folder for folder in folders if folder not in found]
        if strangers:
            _refuse_shared(strangers, classes)
            raise BadImages(
                f"No class of the model is called {some(strangers)}, as folders here are{_nearest(strangers, known)}."
            )
        _refuse_twice(found, classes)
        ids = any(_WORDNET_ID.fullmatch(folder) for folder in folders)
        return found, "the class folders are called by the WordNet ids that the labels begin with" if ids else ""
    return _number_unnamed(sorted(folders), classes)


def number_labels(labels: Collection[str], classes: Classes) -> dict[str, int]:
    """Returns the class number of every label of a table, which is a number or a class name.

    Raises:
        BadImages: a name that the model does not have, a number outside its classes, or a numeral that is the name of
            another class than the one with that number.
    """
    known = _numbers_of_names(classes)
    found: dict[str, int] = {}
    strangers = []
    for label in labels:
        named = known.get(_plain(label))
        number = int(label) if _NUMBER.fullmatch(label) else None
        if named is None and number is None:
            strangers.append(label)
        elif named is not None and number is not None and named != number:
            raise BadImages(
                f"The label {label} may be class {number} or class {named}, which the model calls {label!r}: name the "
                "classes in words, or make another table."
            )
        else:
            found[label] = named if number is None else number  # type: ignore[assignment]
    if strangers and not known:
        raise BadImages(
            f"Labels such as {some(strangers)} are names, and nothing says how the model's classes are "
            "called: use their numbers, or give the names with --labels FILE."
        )
    if strangers:
        _refuse_shared(strangers, classes)
        raise BadImages(
            f"No class of the model is called {some(strangers)}, as labels here are{_nearest(strangers, known)}."
        )
    check_range(found.values(), classes)
    return found


def check_range(numbers: Collection[int], classes: Classes) -> None:
    """Refuses numbers that are no class.

    Raises:
        BadImages: a negative number, or one that is too large.
    """
    if numbers and min(numbers) < 0:
        raise BadImages(f"There is a label {min(numbers)}: classes are counted from 0.")
    if numbers and max(numbers) >= classes.count:
        raise BadImages(
            f"There is a label {max(numbers)}, and the model has {classes.count} classes, counted from 0"
            + (": the labels seem to be counted from 1." if max(numbers) == classes.count and min(numbers) > 0 else ".")
        )


def _number_unnamed(folders: list[str], classes: Classes) -> tuple[dict[str, int], str]:
    """Numbers class folders whose names are not those of the model's classes."""
    if len(folders) == classes.count:
        numbers = all(folder.isdecimal() for folder in folders)
        if classes.given and not numbers:
            raise _unlike(folders, classes)
        ordered = sorted(folders, key=_as_number) if numbers else folders
        note = "the class folders were counted in the order of their names"
        if numbers:
            note += ", read as numbers (torchvision's ImageFolder sorts them as text)" if ordered != folders else ""
        elif folders != sorted(folders, key=_as_number):
            note += " (as text: 10 comes before 2)"
        if classes.names and not numbers:
            near = _nearest(folders, _numbers_of_names(classes))
            note += f"; none has the name of a class of the model, such as {some(classes.names)}{near}"
        return {folder: index for index, folder in enumerate(ordered)}, note
    ids = _wordnet_ids() if classes.count == _IMAGENET and all(map(_WORDNET_ID.fullmatch, folders)) else {}
    if ids and all(folder in ids for folder in folders):
        return {folder: ids[folder] for folder in folders}, "the class folders are WordNet ids of ImageNet-1k"
    raise BadImages(
        f"There are {len(folders)} class folders, such as {some(folders)}, for {classes.count} classes, and their "
        f"names are not the model's{_nearest(folders, _numbers_of_names(classes))}: "
        "which classes they are has to be said, with --labels FILE or with a CSV of path and class number."
    )


def _unlike(folders: Sequence[str], classes: Classes) -> BadImages:
    """Returns the error that none of the folders is called as a class, with the first few beside their nearest."""
    near = _nearest(folders, _numbers_of_names(classes))
    return BadImages(
        f"None of the {len(folders)} class folders has a name of the labels that were given: {some(folders)} beside "
        f"{some(classes.names)}{near}. Name both alike, or give a CSV of path and class number."
    )


def _wordnet_ids() -> Mapping[str, int]:
    """Returns WordNet ids to classes of ImageNet-1k; empty where timm, which lists them, is not installed."""
    try:
        from timm.data.imagenet_info import ImageNetInfo  # noqa: PLC0415 - it imports PyTorch, which is needed for nothing else here
    except ImportError:
        return {}
    ids: list[str] = ImageNetInfo("imagenet-1k").label_names()  # type: ignore[no-untyped-call]
    return {name: index for index, name in enumerate(ids)}


def _numbers_of_names(classes: Classes) -> dict[str, int]:
    """Returns class names, and the first part of names with commas, to numbers; ambiguous ones are left out.

    Of names that all begin with a WordNet id, such as ``n01440764 tench, Tinca tinca``, the id and the rest count too.
    """
    split = [_SYNSET.fullmatch(name) for name in classes.names]
    ids = [[found[part] for found in split if found] for part in (1, 2)] if all(split) else []
    forms = [list(classes.names), *ids]
    found: dict[str, int] = {}
    for names in [*forms, *([name.partition(",")[0] for name in form] for form in forms)]:
        keys = [_plain(name) for name in names]
        times = Counter(keys)
        for index, key in enumerate(keys):
            if times[key] == 1:
                found.setdefault(key, index)
    return found


def _refuse_twice(found: Mapping[str, int], classes: Classes) -> None:
    for folder, number in found.items():
        other = next(name for name, same in found.items() if same == number)
        if other != folder:
            raise BadImages(f"The class folders {other} and {folder} are both class {number}, {classes.names[number]}.")


def _refuse_shared(strangers: Sequence[str], classes: Classes) -> None:
    """Refuses a name that several classes have, which a table of class numbers can tell apart."""
    plain = [_plain(name) for name in classes.names]
    first = [_plain(name.partition(",")[0]) for name in classes.names]
    for stranger in strangers:
        same = [i for i in range(len(plain)) if _plain(stranger) in (plain[i], first[i])]
        if len(same) > 1:
            numbers = " and ".join(map(str, same))
            raise BadImages(
                f"{stranger} is what the classes {numbers} are called: say which is meant, in a CSV of path and number."
            )


def _nearest(strangers: Sequence[str], known: Mapping[str, int]) -> str:
    """Returns the first few names beside the nearest of the model's, or nothing where none is near."""
    pairs = [
        f"{stranger[:80]} ~ {near[0]}"
        for stranger in strangers[:3]
        if (near := get_close_matches(_plain(stranger), known, n=1))
    ]
    return f" (nearest: {', '.join(pairs)})" if pairs else ""


def _plain(name: str) -> str:
    """Returns a name in the form for comparisons: without case, with one space for each gap."""
    return " ".join(re.split(r"[\s_]+", name.strip().casefold()))


def _as_number(name: str) -> tuple[int, str]:
    return (int(name) if name.isdecimal() else 0, name)
