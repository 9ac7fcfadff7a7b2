# SPDX-License-Identifier: Apache-2.0
"""Devices as data: what ``--for PROFILE`` picks, read from ``profiles.toml`` beside this file."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from vitedge.errors import BadRecipe
from vitedge.export.formats import ENGINE, FORMS
from vitedge.files.plain import from_dict
from vitedge.recipe import SCHEMES, ExportRecipe
from vitedge.sentences import nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TABLE = Path(__file__).with_name("profiles.toml")


@dataclass(frozen=True)
class Fit:
    """What a device tells where a profile is for it; empty is what does not matter. See `vitedge.devices.fitting`."""

    architecture: str = ""
    isa: tuple[str, ...] = ()
    """Names of `vitedge.devices.facts.boards.ISA`, all of which it has; ``a|b`` is one of the two."""
    soc: str = ""
    gpu: str = ""
    model: str = ""
    processor: str = ""
    os: str = ""
    """Patterns that are found in what the device tells."""
    l4t: tuple[str, ...] = ()
    """The first and the last release of L4T."""


@dataclass(frozen=True)
class Profile:
    """One device. ``profiles.toml`` says what each entry means; None or empty is what the device does not need."""

    name: str
    title: str
    formats: tuple[str, ...]
    precisions: tuple[str, ...]
    scheme: str
    sources: Mapping[str, str]
    """Name of an entry to where it was read."""
    opset: int | None = None
    opset_max: int | None = None
    coreml_target: str | None = None
    onnxruntime: str | None = None
    openvino: str | None = None
    tensorrt: tuple[str, ...] = ()
    builder: str = ""
    gpus: tuple[str, ...] = ()
    minimum_share: float = 0.0
    notes: tuple[str, ...] = field(default_factory=tuple)
    fits: Fit | None = None
    """The devices that it is for; None where none can be asked, or another profile is always nearer."""
    like: str = ""
    """Profile whose entries it has where it does not say its own."""

    @property
    def has_engines(self) -> bool:
        """Whether engines are built from its files."""
        return bool(self.tensorrt)

    @property
    def runtime_versions(self) -> Mapping[str, str]:
        """The releases that ONNX files for it have to load in, by the name of the runtime."""
        known = {"onnxruntime": self.onnxruntime, "openvino": self.openvino}
        return {name: release for name, release in known.items() if release is not None}

    @property
    def runs(self) -> tuple[str, ...]:
        """Every precision that can be asked for, with the schemes that the compiler or the runtime takes."""
        schemes = FORMS[ENGINE].schemes if self.has_engines else SCHEMES
        return tuple(dict.fromkeys((*self.precisions, *(schemes if "int8" in self.precisions else ()))))


@cache
def profiles() -> Mapping[str, Profile]:
    """All profiles by name, in the order of the table."""
    table = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    found = {name: _inherited(table, entries) for name, entries in table.items()}
    for entries in found.values():
        entries["sources"] = {name: source for name, source in entries["sources"].items() if entries.get(name)}
    return {name: from_dict(Profile, {"name": name, **entries}) for name, entries in found.items()}


def _inherited(table: Mapping[str, Any], entries: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the entries of a profile over those of the profile that it is ``like``, and its sources likewise."""
    if "like" not in entries:
        return dict(entries)
    other = _inherited(table, table[entries["like"]])
    return {**other, **entries, "sources": {**other["sources"], **entries.get("sources", {})}}


def apply(recipe: ExportRecipe, name: str) -> ExportRecipe:
    """Returns a recipe for one profile, with the profile's settings where the recipe says nothing.

    Args:
        recipe: what was asked for.
        name: one of `profiles`.

    Raises:
        BadRecipe: there is no such profile, or what the recipe says contradicts it; with the two ways out.
    """
    profile = named(name)
    settings: dict[str, Any] = {
        "formats": profile.formats[:1],
        "precision": profile.precisions[0],
        # Where no runtime is the limit, the exporter decides: 16-bit activations need a higher one than the others.
        "opset": profile.opset if profile.opset_max else None,
        "coreml_target": profile.coreml_target,
    }
    given = {entry: value for entry, value in settings.items() if getattr(recipe, entry) is None}
    versions = {**profile.runtime_versions, **recipe.runtime_versions}
    filled = replace(recipe, profiles=(name,), runtime_versions=versions, **given)
    _refuse_contradiction(filled, profile)
    return filled


def named(name: str) -> Profile:
    """Returns the profile of that name.

    Raises:
        BadRecipe: there is none.
    """
    try:
        return profiles()[name]
    except KeyError:
        near = nearest(name, profiles())
        raise BadRecipe(f"There is no profile {name!r}; choose from {', '.join(profiles())}{near}") from None


def _refuse_contradiction(recipe: ExportRecipe, profile: Profile) -> None:
    unfit = [name for name in recipe.formats or () if name not in profile.formats]
    if unfit:
        raise BadRecipe(
            f"{profile.title} has no use for {' and '.join(unfit)}: "
            f"ask for --format {' --format '.join(profile.formats)}, or leave --for {profile.name} out."
        )
    if recipe.precision not in profile.runs:
        raise BadRecipe(
            f"{profile.title} does not run {recipe.precision}: "
            f"ask for --precision {' or '.join(profile.runs)}, or leave --for {profile.name} out."
        )
    if profile.opset_max is not None and (recipe.opset or 0) > profile.opset_max:
        raise BadRecipe(
            f"{profile.title} reads opset {profile.opset_max} at most, not {recipe.opset}: "
            f"leave --opset out (it is then {profile.opset}), or leave --for {profile.name} out."
        )
