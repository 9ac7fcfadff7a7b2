# SPDX-License-Identifier: Apache-2.0
"""Parses the values of options: sizes, batches, facts, tolerances, settings of quantization."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from vitedge.errors import BadRecipe
from vitedge.files.plain import to_dict
from vitedge.images.label_files import read_labels
from vitedge.recipe import SCHEMES, LayerScheme, QuantizationRecipe, named_setting
from vitedge.records import Tolerance
from vitedge.sentences import nearest

_SWITCHES = {"on": True, "off": False}
_SWITCHED = frozenset(entry.name for entry in fields(QuantizationRecipe) if entry.type == "bool")
"""Settings of quantization that are on or off."""


def parse_size(text: str | None) -> tuple[int, int] | None:
    """Returns height and width in pixels of ``224`` or ``256x192`` (height x width); None of None.

    Raises:
        BadRecipe: anything else.
    """
    if text is None:
        return None
    edges = text.lower().split("x")
    if len(edges) > 2 or not all(edge.isdecimal() and int(edge) > 0 for edge in edges):
        raise BadRecipe(f"--image-size is pixels, such as 224 or 256x192 (height x width); got {text!r}.")
    return int(edges[0]), int(edges[-1])


def parse_batch(text: str | None) -> int | str | None:
    """Returns ``dynamic`` or a number; text that is neither is left for the recipe to refuse."""
    return int(text) if text is not None and text.isdecimal() else text


def parse_engine_batch(text: str | None) -> tuple[int, ...] | None:
    """Returns the batch to tune for and the largest of ``8:32``; one number is both; None of None.

    Raises:
        BadRecipe: anything else.
    """
    if text is None:
        return None
    sizes = text.split(":")
    if len(sizes) > 2 or not all(size.isdecimal() for size in sizes):
        raise BadRecipe(f"--engine-batch is the batch to tune for and the largest, such as 8:32; got {text!r}.")
    return int(sizes[0]), int(sizes[-1])


def parse_merge(text: str | None) -> int | tuple[int, ...] | None:
    """Returns the tokens that each block merges: of ``13``, or one a block of ``0,0,16,16``; None of None.

    Raises:
        BadRecipe: anything else.
    """
    if text is None:
        return None
    entries = text.split(",")
    if not all(entry.strip().isdecimal() for entry in entries):
        raise BadRecipe(f"--merge is a number of tokens, such as 13, or one a block, such as 0,0,16,16; got {text!r}.")
    counts = tuple(int(entry) for entry in entries)
    return counts if len(counts) > 1 else counts[0]


def parse_sparsity(text: str | None) -> str | float | None:
    """Returns the number in a text such as ``0.5``; another text is left for the recipe to refuse, or is ``2:4``."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


def parse_runtime_versions(pairs: list[str] | None) -> dict[str, str] | None:
    """Returns the releases of ``NAME=RELEASE`` by name; None of None.

    Raises:
        BadRecipe: a pair without both.
    """
    if not pairs:
        return None
    found = [pair.partition("=") for pair in pairs]
    for pair, (name, _, release) in zip(pairs, found, strict=True):
        if not (name and release):
            raise BadRecipe(f"--runtime-version is NAME=RELEASE, such as onnxruntime=1.18; got {pair!r}.")
    return {name: release for name, _, release in found}


def with_model(pairs: list[str] | None, model: str | None) -> list[str] | None:
    """Returns the pairs of ``--set`` with that of ``--model`` after them."""
    return pairs if model is None else [*(pairs or ()), f"model={model}"]


def parse_overrides(pairs: list[str] | None) -> Mapping[str, Any]:
    """Returns the values of ``NAME=VALUE`` by name; commas make a tuple, and all but names of classes become numbers.

    Raises:
        BadRecipe: a pair without ``=``.
    """
    result: dict[str, Any] = {}
    for pair in pairs or ():
        name, equals, value = pair.partition("=")
        if not equals or not name or not value:
            raise BadRecipe(f"--set wants NAME=VALUE, such as heads=3; got {pair!r}.")
        parts = tuple(part if name == "labels" else _number(part) for part in value.split(","))
        result[name.replace("-", "_")] = parts if len(parts) > 1 else parts[0]
    return result


def with_labels(overrides: Mapping[str, Any], labels: str | None) -> Mapping[str, Any]:
    """Returns overrides with the names of classes of a file, where one was named.

    Raises:
        BadRecipe: there is no such file, or it holds something else.
    """
    return overrides if labels is None else {**overrides, "labels": read_labels(labels)}


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def refuse_idle(options: Mapping[str, object], what_for: str, advice: str) -> None:
    """Refuses options that were typed and would have no effect.

    Args:
        options: their names to their values; None, False and an empty list were not typed.
        what_for: a phrase that follows ``--name is``.
        advice: what to do, a phrase.

    Raises:
        BadRecipe: names the first of them.
    """
    for name, value in options.items():
        if value is not None and value is not False and value != []:
            raise BadRecipe(f"{name} is {what_for}: {advice}.")


def as_typed(weights: str | None, pairs: list[str] | None) -> list[str]:
    """Returns the options about a checkpoint as they were typed: ``--weights NAME --set NAME=VALUE``."""
    named = [] if weights is None else ["--weights", weights]
    return [*named, *(word for pair in pairs or () for word in ("--set", pair))]


def tolerance_entries(
    max_error: float | None, min_sqnr: float | None, min_agreement: float | None
) -> dict[str, Any] | None:
    """Returns the entries of a `Tolerance` as a recipe file has them; None where no option was given."""
    if max_error is None and min_sqnr is None and min_agreement is None:
        return None
    entries: dict[str, Any] = to_dict(Tolerance(max_error, min_sqnr, min_agreement))
    return entries


def quantization_entries(
    precision: str | None,
    found: Mapping[str, Any] | None,
    given: Mapping[str, Any],
    settings: list[str] | None,
    layers: list[str] | None,
) -> dict[str, Any]:
    """Returns the entries of a `QuantizationRecipe` as a recipe file has them.

    Args:
        precision: the scheme.
        found: entries of a recipe file, if there is one.
        given: entries that have an option of their own; None where it was not used.
        settings: ``NAME=VALUE``, which go over those of the file.
        layers: ``NAME=SCHEME``, which go over those of the file.

    Raises:
        BadRecipe: the precision is no scheme of quantization, or a pair has no ``=``.
    """
    if precision not in (None, "fp32", "fp16", *SCHEMES):
        raise BadRecipe(
            f"There is no scheme {precision!r}; choose from {', '.join(SCHEMES)}{nearest(str(precision), SCHEMES)}"
        )
    if precision not in SCHEMES:
        raise BadRecipe(
            f"--quantization, --layer and --effort are for quantization: add --precision {' or '.join(SCHEMES)}."
        )
    entries = {**(found or {}), "scheme": precision}
    entries.update({name: value for name, value in given.items() if value is not None})
    for pair in settings or ():
        name, value = _pair(pair, "--quantization", "ranges=mse")
        entry = name.replace("-", "_")
        entries[entry] = _switch(entry, value) if entry in _SWITCHED else _number(value)
    chosen = dict(_pair(pair, "--layer", "blocks.0.*=float") for pair in layers or ())
    for scheme in chosen.values():
        named_setting(LayerScheme, "scheme of a layer", scheme)
    if chosen:
        entries["layers"] = {**entries.get("layers", {}), **chosen}
    return entries


def _switch(name: str, value: str) -> bool:
    if value not in _SWITCHES:
        raise BadRecipe(f"The setting {name} is {' or '.join(_SWITCHES)}; got {value!r}.")
    return _SWITCHES[value]


def _pair(text: str, option: str, example: str) -> tuple[str, str]:
    name, equals, value = text.rpartition("=")
    if not equals or not name or not value:
        raise BadRecipe(f"{option} wants NAME=VALUE, such as {example}; got {text!r}.")
    return name, value
