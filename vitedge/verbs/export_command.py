# SPDX-License-Identifier: Apache-2.0
"""The command line that exports by a recipe: what `vitedge.cli.export` reads, written."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from typing import Any

from vitedge.checkpoints.read import CheckpointSource
from vitedge.images.in_memory import ImagesInMemory
from vitedge.recipe import ExportRecipe, QuantizationRecipe
from vitedge.records import Tolerance


def export_command(source: CheckpointSource, recipe: ExportRecipe, bundle: str = "BUNDLE") -> str:
    """Returns the command that writes the bundle that `vitedge.verbs.export.export` writes by a recipe.

    Args:
        source: the path of the checkpoint, or its name on the hub; or weights in memory.
        recipe: what was asked for, not resolved: what it leaves open, the command leaves open.
        bundle: the folder that it names.

    Returns:
        The command, quoted for a shell; empty where the weights or the images are in memory, or where the recipe has
        another value that no option takes, such as a class whose name has a comma.
    """
    if not isinstance(source, str):
        return ""
    try:
        return shlex.join(["vitedge", "export", source, "-o", bundle, *options(recipe)])
    except _NotTypedError:
        return ""


class _NotTypedError(Exception):
    """A value that no option takes."""


def options(recipe: ExportRecipe) -> Iterator[str]:
    """Yields the words of the options that give a recipe, those of entries that are not the default."""
    plain = ExportRecipe()
    for entry in fields(ExportRecipe):
        value = getattr(recipe, entry.name)
        if value == getattr(plain, entry.name):
            continue
        yield from _quantization(value, recipe) if entry.name == "quantization" else _WORDS[entry.name](value)


def _quantization(settings: QuantizationRecipe, recipe: ExportRecipe) -> Iterator[str]:
    """Yields what differs from the settings that the other options give: they share the images and the seed."""
    given = {
        "images": None if recipe.images == ExportRecipe.images else recipe.images,
        "seed": recipe.seed,
        "scheme": settings.scheme,
    }
    plain = QuantizationRecipe()
    for entry in fields(QuantizationRecipe):
        value = getattr(settings, entry.name)
        if value == given.get(entry.name, getattr(plain, entry.name)):
            continue
        if entry.name == "layers":
            yield from _pairs("--layer", value)
        elif value is None:
            raise _NotTypedError(entry.name)
        else:
            yield from ("--quantization", f"{entry.name}={_text(value)}")


def _pairs(option: str, values: Mapping[str, Any]) -> Iterator[str]:
    for name, value in values.items():
        yield from (option, f"{name}={_text(value)}")


def _text(value: Any) -> str:
    """Returns a value as an option takes it: several with commas between them."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, (tuple, list)):
        parts = [_text(part) for part in value]
        if not parts or any("," in part for part in parts):
            raise _NotTypedError(value)
        return ",".join(parts)
    if isinstance(value, (Mapping, ImagesInMemory)):
        raise _NotTypedError(value)
    return str(value)


def _size(size: tuple[int, int]) -> str:
    return str(size[0]) if size[0] == size[1] else f"{size[0]}x{size[1]}"


def _tolerance(tolerance: Tolerance) -> Iterator[str]:
    limits = (tolerance.relative_error, tolerance.centred_sqnr_db, tolerance.agreement)
    for option, limit in zip(("--max-error", "--min-sqnr", "--min-agreement"), limits, strict=True):
        if limit is not None:
            yield from (option, repr(limit))


def _labels(labels: str | tuple[str, ...]) -> tuple[str, str]:
    if not isinstance(labels, str):  # the option names a file
        raise _NotTypedError(labels)
    return "--labels", labels


def _repeated(option: str) -> Callable[[tuple[str, ...]], list[str]]:
    return lambda values: [word for value in values for word in (option, value)]


def _plain(option: str) -> Callable[[Any], tuple[str, str]]:
    return lambda value: (option, str(value))


def _switch(option: str) -> Callable[[Any], tuple[str]]:
    return lambda _value: (option,)


_WORDS: Mapping[str, Callable[[Any], Any]] = {
    "formats": _repeated("--format"),
    "profiles": _repeated("--for"),
    "precision": _plain("--precision"),
    "rest": _plain("--rest"),
    "image_size": lambda size: ("--image-size", _size(size)),
    "batch": _plain("--batch"),
    "engine_batch": lambda batches: ("--engine-batch", ":".join(map(str, batches))),
    "pad_heads": _switch("--pad-heads"),
    "opset": _plain("--opset"),
    "coreml_target": _plain("--coreml-target"),
    "runtime_versions": lambda releases: _pairs("--runtime-version", releases),
    "input": _plain("--input"),
    "features": _switch("--features"),
    "images": lambda images: ("--images", _text(images)),
    "image_count": _plain("--image-count"),
    "seed": _plain("--seed"),
    "weights": _plain("--weights"),
    "overrides": lambda facts: _pairs("--set", facts),
    "labels": _labels,
    "accept_assumptions": _switch("--accept-assumptions"),
    "tolerance": _tolerance,
    "device": _plain("--device"),
}
"""Entry of `ExportRecipe`, without ``quantization``, to the words of its option."""
