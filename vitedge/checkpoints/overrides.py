# SPDX-License-Identifier: Apache-2.0
"""Facts about a checkpoint that the user states, because its file leaves them out or is wrong."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vitedge.checkpoints.families.configuration import ACTIVATIONS
from vitedge.errors import BadRecipe
from vitedge.images.label_files import SUFFIXES
from vitedge.records import ModelSpec, Origin, Preprocessing
from vitedge.sentences import nearest

_FIXED = ("family", "naming", "preprocessing", "options", "origins", "notes")
_TYPES: dict[str, Any] = {
    name: hint
    for record in (ModelSpec, Preprocessing)
    for name, hint in typing.get_type_hints(record).items()
    if name not in _FIXED
}
_TRUTHS = {"true": True, "false": False}
_TYPES["model"] = str  # a name in timm: it chooses the architecture, and is no field
_OPTIONS = {"pool": str, "norm_first": bool}
"""Options of a ViT that the user may state, to their types."""
_TYPES.update(_OPTIONS)
_PREPROCESSING = tuple(field.name for field in dataclasses.fields(Preprocessing))

_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "interpolation": (lambda value: value in ("bicubic", "bilinear", "lanczos", "nearest"), "bicubic, bilinear, …"),
    "crop_mode": (lambda value: value in ("center", "squash", "border"), "center, squash or border"),
    "crop_offset": (lambda value: value in ("round", "floor", "ceil"), "round, floor or ceil"),
    "resizer": (lambda value: value in ("pillow", "torch"), "pillow or torch"),
    "transparency": (lambda value: value in ("white", "dropped"), "white or dropped"),
    "pool": (lambda value: value in ("class", "mean", "max", "avgmax"), "class, mean, max or avgmax"),
    "channel_order": (lambda value: value in ("rgb", "bgr"), "rgb or bgr"),
    "activation": (
        lambda value: value in ACTIVATIONS.values(),
        ", ".join(dict.fromkeys(ACTIVATIONS.values())),
    ),
    "tokens": (lambda value: set(value) <= {"class", "distillation", "register"}, "class, distillation, register"),
    "crop": (lambda value: 0 < value <= 1, "above 0, at most 1"),
    "norm_eps": (lambda value: 0 < value < 1, "above 0, below 1"),
    "std": (lambda value: value and all(entry > 0 for entry in value), "above 0"),
    "mean": (bool, "one number per channel"),
    "image_size": (lambda value: min(value) > 0, "above 0"),
    "patch": (lambda value: value > 0, "above 0"),
    "in_channels": (lambda value: value > 0, "above 0"),
    "classes": (lambda value: value >= 0, "0 or more"),
    "heads": (lambda value: value and min(value) > 0, "above 0"),
}
"""Field to the check of its value, and to what the check demands, in words."""


def parse_overrides(given: Mapping[str, Any]) -> dict[str, Any]:
    """Brings names and values into the form of the records: ``"mean": "0.5,0.5,0.5"`` to a tuple of floats.

    Raises:
        BadRecipe: a field that does not exist, or a value that its type cannot hold.
    """
    parsed: dict[str, Any] = {}
    for name, value in given.items():
        field = name.removeprefix("preprocessing.").replace("-", "_")
        if field not in _TYPES:
            near = nearest(field, _TYPES)
            raise BadRecipe(f"There is nothing called {name!r} to override; there is {', '.join(sorted(_TYPES))}{near}")
        if field == "labels":
            _refuse_file(value)
        parsed[field] = _parsed(field, value)
    return parsed


def _refuse_file(value: Any) -> None:
    """Refuses a file where names are wanted."""
    single = value[0] if isinstance(value, (list, tuple)) and len(value) == 1 else value
    if isinstance(single, str) and Path(single).suffix.lower() in SUFFIXES:
        raise BadRecipe(
            f"labels takes names, and {single} is a file: export, quantize, prune and evaluate take it as "
            f"--labels {single}."
        )


def apply_overrides(spec: ModelSpec, given: Mapping[str, Any]) -> ModelSpec:
    """Returns the spec with the given fields set and marked as `Origin.GIVEN`.

    Raises:
        BadRecipe: as `parse_overrides`, or a value that contradicts the shapes of the weights or another field.
    """
    values = parse_overrides(given)
    values.pop("model", None)
    for name in ("mean", "std"):
        if len(values.get(name, ())) == 1:
            values[name] *= spec.in_channels
    options = {name: values.pop(name) for name in _OPTIONS if name in values}
    for name, value in options.items():
        _check_option(spec, name, value)
    for name in values.keys() - set(_PREPROCESSING):
        if spec.origins.get(name) is Origin.SHAPE and getattr(spec, name) != values[name]:
            raise BadRecipe(
                f"{name} cannot be {values[name]}: the shapes of the weights say {getattr(spec, name)}; leave it out."
            )
    image = {name: value for name, value in values.items() if name in _PREPROCESSING}
    own = {name: value for name, value in values.items() if name not in image}
    marks = {**dict.fromkeys(own, Origin.GIVEN), **{f"preprocessing.{name}": Origin.GIVEN for name in image}}
    marks |= {f"options.{name}": Origin.GIVEN for name in options}
    changed = dataclasses.replace(
        spec,
        **own,
        preprocessing=dataclasses.replace(spec.preprocessing, **image),
        options={**spec.options, **options},
        origins={**spec.origins, **marks},
    )
    _check_lengths(changed, values)
    return changed


def _check_option(spec: ModelSpec, name: str, value: Any) -> None:
    if spec.family != "vit" or name not in spec.options:
        raise BadRecipe(f"{name} cannot be set: it is known of {spec.variant}; leave it out.")
    if spec.origins[f"options.{name}"] is Origin.SHAPE and spec.options[name] != value:
        raise BadRecipe(f"{name} cannot be {value}: the weights say {spec.options[name]}; leave it out.")
    if value == "class" and "class" not in spec.tokens:
        raise BadRecipe(f"{name} cannot be class: there is no class token; take mean.")


def _check_lengths(spec: ModelSpec, values: Mapping[str, Any]) -> None:
    for name in ("mean", "std"):
        if name in values and len(values[name]) != spec.in_channels:
            raise BadRecipe(f"{name} takes {spec.in_channels} numbers, one per channel; got {len(values[name])}.")
    if "labels" in values and len(spec.labels) != spec.classes:
        raise BadRecipe(
            f"labels takes {spec.classes} names, one per class; got {len(spec.labels)}: check for commas in names, "
            "or give them in a file, with --labels."
        )


def _parsed(name: str, value: Any) -> Any:
    hint = _TYPES[name]
    try:
        parsed = _entries(name, hint, value) if typing.get_origin(hint) is tuple else _scalar(hint, value)
    except (KeyError, TypeError, ValueError) as error:
        raise BadRecipe(f"{name} takes {_words(hint)}; got {value!r}.") from error
    test, words = _CHECKS.get(name, (lambda _: True, ""))
    if not test(parsed):
        raise BadRecipe(f"{name} takes {_words(hint)}: {words}; got {value!r}.")
    return parsed


def _entries(name: str, hint: Any, value: Any) -> tuple[Any, ...]:
    inner = typing.get_args(hint)[0]
    if isinstance(value, str):
        value = [part.strip() for part in (value.replace("x", ",") if name == "image_size" else value).split(",")]
    entries = tuple(_scalar(inner, entry) for entry in (value if isinstance(value, (list, tuple)) else [value]))
    if name == "image_size":
        entries = entries * 2 if len(entries) == 1 else entries
        if len(entries) != 2:
            raise ValueError("height and width")
    return entries


def _scalar(kind: type, value: Any) -> Any:
    if kind is bool:
        return value if isinstance(value, bool) else _TRUTHS[str(value).strip().lower()]
    if isinstance(value, bool) or not isinstance(value, str if kind is str else (str, int, float)):
        raise TypeError("another type")
    converted = kind(value)
    if kind is int and not isinstance(value, str) and converted != value:
        raise ValueError("not a whole number")
    if kind is float and converted - converted != 0:
        raise ValueError("not finite")
    return converted


def _words(hint: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "a name", bool: "true or false"}
    if typing.get_origin(hint) is not tuple:
        return names[hint]
    return {int: "whole numbers", float: "numbers", str: "names"}[
        typing.get_args(hint)[0]
    ] + " with commas between them"
