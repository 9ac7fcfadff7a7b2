# SPDX-License-Identifier: Apache-2.0
"""ONNX files for runtimes of a given release: the form of weights that it computes right, or the release needed.

What is known is measured: see `vitedge.export.onnx.oldest_runtimes`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TypeVar

from vitedge.errors import BadRecipe, CheckFailed
from vitedge.export.onnx.oldest_runtimes import (
    EXPANDED,
    NO_RELEASE,
    PACKED,
    TITLES,
    UNKNOWN,
    newest,
    of_opset,
    of_precision,
    reaches,
)
from vitedge.recipe import ExportRecipe, LayerScheme, Precision, ResolvedRecipe
from vitedge.records import Artifact

R = TypeVar("R", bound=ExportRecipe)
_RELEASE = re.compile(r"\d+\.\d+(\.\w+)*")


def with_found(asked: R, found: Mapping[str, str]) -> R:
    """Returns a recipe for the runtimes that a device was found to have, where the recipe does not say others.

    Args:
        asked: the recipe.
        found: name of a runtime to its release, such as ``{"onnxruntime": "1.18.1"}``; others than those that read ONNX
            files are left out.
    """
    known = {name: release for name, release in found.items() if name in TITLES and _RELEASE.match(release)}
    return replace(asked, runtime_versions={**known, **asked.runtime_versions})


def packs_weights(recipe: ResolvedRecipe) -> bool:
    """Returns whether 8-bit weights are packed in an ONNX file, which older releases do not read; they are otherwise.

    Raises:
        BadRecipe: a runtime or a release is none, or its release computes no form of the file right; with the release
            that is needed, and what can be had for the one that was named.
    """
    for runtime, release in recipe.runtime_versions.items():
        _check_named(runtime, release)
        _refuse_opset(recipe.opset, runtime, release)
    schemes = _schemes(recipe)
    # A form that is right for all models goes before one that is right for some: what was written shows which it is.
    for models in ("all", "some"):
        for form in (PACKED, EXPANDED):
            if not any(_too_old(recipe, schemes, form, models)):
                return form == PACKED
    runtime, needed = next(_too_old(recipe, schemes, EXPANDED, "some"))
    release = recipe.runtime_versions[runtime]
    others = [name for name in Precision if not any(_too_old(recipe, (name,), EXPANDED, "some"))]
    remedy = f"ask for --precision {'|'.join(others)}" if others else "update it"
    raise BadRecipe(f"{_needs(' and '.join(schemes), runtime, needed)}, and {release} was asked for: {remedy}.")


def check_written(artifact: Artifact, recipe: ResolvedRecipe) -> tuple[str, ...]:
    """Returns notes about the runtimes that a file was written for and never measured in.

    Raises:
        CheckFailed: what is in the file needs a newer release than the one that was named.
    """
    notes = []
    for runtime, release in recipe.runtime_versions.items():
        needed = artifact.oldest_runtimes.get(runtime, UNKNOWN)
        if needed == UNKNOWN:
            notes.append(f"whether {TITLES[runtime]} {release} computes it right was not measured")
        elif not reaches(release, needed):
            raise CheckFailed(
                f"{_needs(artifact.path, runtime, needed)}, and {release} was asked for: leave out the options that "
                "need it, or name a newer --runtime-version."
            )
    return tuple(notes)


def _check_named(runtime: str, release: str) -> None:
    if runtime not in TITLES:
        raise BadRecipe(f"There is no runtime {runtime!r} of ONNX files; choose from {', '.join(TITLES)}.")
    if not _RELEASE.fullmatch(release):
        raise BadRecipe(f"--runtime-version is NAME=RELEASE, such as {runtime}=1.18; got {runtime}={release}.")


def _refuse_opset(opset: int | None, runtime: str, release: str) -> None:
    needed = {} if opset is None else of_opset(opset)
    if runtime in needed and not reaches(release, needed[runtime]):
        told = _needs(f"opset {opset}", runtime, needed[runtime])
        raise BadRecipe(f"{told}, and {release} was asked for: leave --opset out.")


def _schemes(recipe: ResolvedRecipe) -> tuple[str, ...]:
    """Returns the precision of a recipe and those of its single layers."""
    layers = () if recipe.quantization is None else recipe.quantization.layers.values()
    named = (str(scheme) for scheme in layers if scheme is not LayerScheme.FLOAT)
    return tuple(dict.fromkeys((str(recipe.precision), *named)))


def _too_old(recipe: ResolvedRecipe, schemes: Iterable[str], form: str, models: str) -> Iterator[tuple[str, str]]:
    """Yields the runtimes of a recipe whose release is too old for a form of a file, and the releases needed."""
    forms = (form, PACKED)
    for runtime, release in recipe.runtime_versions.items():
        measured = [[of_precision(scheme, one, models=models) for one in forms] for scheme in schemes]
        known = [entry[runtime] for entry in (next(filter(None, found), {}) for found in measured) if runtime in entry]
        needed = newest(runtime, iter(known)) if known else ""
        if needed and not reaches(release, needed):
            yield runtime, needed


def _needs(what: str, runtime: str, needed: str) -> str:
    """Returns the beginning of a sentence about the release that something needs."""
    if needed == NO_RELEASE:
        return f"No measured release of {TITLES[runtime]} computes {what} right"
    return f"{what} needs {TITLES[runtime]} {needed} or newer"
