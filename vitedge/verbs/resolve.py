# SPDX-License-Identifier: Apache-2.0
"""From what was asked for to what is done: the one way to a recipe that leaves nothing open."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

from vitedge.devices.profiles import apply, profiles
from vitedge.errors import BadRecipe
from vitedge.export.formats import DEFAULT, FORMATS, QuantizedForm, form_of, named
from vitedge.quantization.file.header import SUFFIX, fixed_entries, read_header
from vitedge.recipe import ExportRecipe, Precision, ResolvedRecipe


def resolve(asked: ExportRecipe, source: str) -> ResolvedRecipe:
    """Returns a recipe with everything filled in that was not said.

    A quantized file fixes its own precision, batch and input; then a profile fills in what is open; what is open after
    that gets its default.

    Args:
        asked: the recipe; an entry that is None was not said.
        source: the checkpoint or the quantized file that it is for.

    Raises:
        BadRecipe: entries contradict each other, the profile, or the quantized file; with the ways out.
        UnreadableArtifact: the source is no quantized file, though its name says so.
    """
    quantized = Path(source).suffix == SUFFIX
    if asked.quantization is not None and asked.precision is None:
        asked = replace(asked, precision=asked.quantization.scheme)
    filled = apply(_fixed(asked, source) if quantized else asked)
    if filled.formats == ():
        raise BadRecipe(f"An export needs at least one --format: {', '.join(FORMATS)}.")
    for name in filled.formats or ():
        named(name)
    entries = {entry.name: getattr(filled, entry.name) for entry in fields(ExportRecipe)}
    entries["formats"], entries["precision"] = filled.formats or (DEFAULT,), filled.precision or Precision.FP32
    recipe = ResolvedRecipe(**entries)
    if quantized:
        _refuse_zero_points(source, recipe)
    return recipe


def form_for(recipe: ResolvedRecipe) -> QuantizedForm:
    """Returns the form in which a program is quantized: the strictest of its formats and its profile."""
    engine = recipe.profile is not None and profiles()[recipe.profile].has_engines
    return form_of(recipe.formats, engine=engine)


def _fixed(asked: ExportRecipe, source: str) -> ExportRecipe:
    """Returns a recipe with what a quantized file fixes; an entry counts as asked for where it is not its default."""
    plain = ExportRecipe()
    values = {entry.name: getattr(asked, entry.name) for entry in fields(asked)}
    given = {name: value for name, value in values.items() if value != getattr(plain, name)}
    return replace(asked, **fixed_entries(source, given))


def _refuse_zero_points(source: str, recipe: ResolvedRecipe) -> None:
    form = form_for(recipe)
    if read_header(Path(source)).zero_points and not form.zero_points:
        raise BadRecipe(
            f"{source} was quantized for processors, and {form.title} takes no zero points: quantize the checkpoint "
            f"with vitedge quantize --for {recipe.profile or 'PROFILE'}."
        )
