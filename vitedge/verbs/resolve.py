# SPDX-License-Identifier: Apache-2.0
"""From what was asked for to what is done: the one way to a recipe that leaves nothing open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

from vitedge.devices.fitting import AUTO, fitting_profile
from vitedge.devices.profiles import apply, named
from vitedge.devices.session import connect
from vitedge.errors import BadRecipe
from vitedge.export import formats
from vitedge.progress import say
from vitedge.quantization.file.header import SUFFIX, fixed_entries, read_header
from vitedge.recipe import ExportRecipe, Precision, ResolvedRecipe
from vitedge.registry import LOCAL
from vitedge.verbs.runtime_versions import with_found
from vitedge.verbs.targets import Target, strictest, targets

_RUNTIME = "onnxruntime"
_OF_FORMATS = {"opset": "onnx", "coreml_target": "coreml", "engine_batch": "tensorrt"}
"""Entries of a recipe that settle something of a single format."""


def resolve(asked: ExportRecipe, source: str) -> ResolvedRecipe:
    """Returns a recipe with everything filled in that was not said.

    A quantized file fixes its own precision, batch and input; then profiles fill in what is open; what is open after
    that gets its default. Of several profiles each has its own opset and target, which `vitedge.verbs.targets` finds.

    Args:
        asked: the recipe; an entry that is None was not said.
        source: the checkpoint or the quantized file that it is for.

    Raises:
        BadRecipe: entries contradict each other, a profile, or the quantized file; with the ways out.
        UnreadableArtifact: the source is no quantized file, though its name says so.
        DeviceFailed: the device is asked which profile fits, and is out of reach.
    """
    asked, there = _of_device(asked)
    quantized = Path(source).suffix == SUFFIX
    if asked.quantization is not None and asked.precision is None:
        asked = replace(asked, precision=asked.quantization.scheme)
    filled = _with_profiles(_fixed(asked, source) if quantized else asked)
    if filled.formats == ():
        raise BadRecipe(f"An export needs at least one --format: {', '.join(formats.FORMATS)}.")
    for name in filled.formats or ():
        formats.named(name)
    entries = {entry.name: getattr(filled, entry.name) for entry in fields(ExportRecipe)}
    entries["formats"] = filled.formats or (formats.DEFAULT,)
    entries["precision"] = filled.precision or Precision.FP32
    recipe = ResolvedRecipe(**entries)
    found = targets(recipe)
    if there and any(formats.FORMATS[target.format].half_scales_since for target in found):
        recipe = with_found(recipe, there)
    _refuse_idle(asked, found)
    if recipe.runtime_versions and not any(formats.FORMATS[target.format].half_scales_since for target in found):
        raise BadRecipe("--runtime-version is for ONNX files, and none is written: leave it out.")
    if recipe.pad_heads and not any(target.recipe.pad_heads for target in found):
        raise BadRecipe("--pad-heads is for TensorRT, and no file is written for it: add --for rtx, or leave it out.")
    if quantized:
        _refuse_zero_points(source, recipe)
    return recipe


def _refuse_idle(asked: ExportRecipe, found: Sequence[Target]) -> None:
    """Refuses a setting of a format that is not written.

    Raises:
        BadRecipe: names the option, and the format that it is for.
    """
    written = {"tensorrt"} if any(target.engine for target in found) else set()
    written.update(target.format for target in found)
    for entry, form in _OF_FORMATS.items():
        if getattr(asked, entry) is not None and form not in written:
            option = f"--{entry.replace('_', '-')}"
            raise BadRecipe(
                f"{option} is for {formats.FORMATS[form].title}, and no file of it is written: leave it out, or add "
                f"--format {form}."
            )


def _of_device(asked: ExportRecipe) -> tuple[ExportRecipe, dict[str, str]]:
    """Asks the device what it is, where that matters.

    Returns:
        A recipe in which the profile ``auto`` is the name of the one that fits; and the release of the runtime that
        ONNX files are for, where the device is another than this machine.
    """
    if AUTO not in asked.profiles and asked.device == LOCAL:
        return asked, {}
    with connect(asked.device) as session:
        identity = session.identity()
    release = identity.get("versions", {}).get(_RUNTIME, "") if asked.device != LOCAL else ""
    if AUTO in asked.profiles:
        name = fitting_profile(identity, asked.device)
        say(f"profile: {name}, as {asked.device} tells of itself")
        asked = replace(asked, profiles=tuple(dict.fromkeys(name if one == AUTO else one for one in asked.profiles)))
    return asked, {_RUNTIME: release} if release else {}


def _with_profiles(asked: ExportRecipe) -> ExportRecipe:
    """Returns a recipe with the settings of its profiles that all of its artifacts share.

    Raises:
        BadRecipe: a profile has use for none of the formats, no profile for one of them, or the profiles begin with
            different precisions.
    """
    if not asked.profiles:
        return asked
    if len(asked.profiles) == 1:
        return apply(asked, asked.profiles[0])
    filled = [apply(replace(asked, formats=_useful(asked, name)), name) for name in asked.profiles]
    useless = [name for name in asked.formats or () if not any(name in (one.formats or ()) for one in filled)]
    if useless:
        raise BadRecipe(f"None of {', '.join(asked.profiles)} has use for {' and '.join(useless)}: leave it out.")
    precisions = dict.fromkeys(str(one.precision) for one in filled)
    if len(precisions) > 1:
        raise BadRecipe(
            f"{', '.join(asked.profiles)} begin with different precisions: say --precision {' or '.join(precisions)}."
        )
    found = dict.fromkeys(name for one in filled for name in one.formats or ())
    return replace(asked, formats=tuple(found), precision=filled[0].precision)


def _useful(asked: ExportRecipe, profile: str) -> tuple[str, ...] | None:
    """Returns those of the formats that a profile has use for; None where none were named, or none is of use."""
    return tuple(name for name in asked.formats or () if name in named(profile).formats) or asked.formats


def _fixed(asked: ExportRecipe, source: str) -> ExportRecipe:
    """Returns a recipe with what a quantized file fixes; an entry counts as asked for where it is not its default."""
    plain = ExportRecipe()
    values = {entry.name: getattr(asked, entry.name) for entry in fields(plain)}
    given = {name: value for name, value in values.items() if value != getattr(plain, name)}
    return replace(asked, **fixed_entries(source, given))


def _refuse_zero_points(source: str, recipe: ResolvedRecipe) -> None:
    form = strictest(targets(recipe))
    if read_header(Path(source)).zero_points and not form.zero_points:
        raise BadRecipe(
            f"{source} was quantized for processors, and {form.title} takes no zero points: quantize the checkpoint "
            f"with vitedge quantize --for {next(iter(recipe.profiles), 'PROFILE')}."
        )
