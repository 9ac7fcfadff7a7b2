# SPDX-License-Identifier: Apache-2.0
"""The artifacts of an export: each as if it had been asked for alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import PurePath

from vitedge.devices.profiles import apply, named
from vitedge.errors import BadRecipe
from vitedge.export.formats import ENGINE, FORMATS, FORMS, QuantizedForm
from vitedge.recipe import SCHEMES, ExportRecipe, FloatType, Precision, ResolvedRecipe
from vitedge.verbs.runtime_versions import packs_weights


@dataclass(frozen=True)
class Target:
    """One artifact that the captured program is lowered to."""

    format: str
    """Key of `vitedge.export.formats.FORMATS`."""
    recipe: ResolvedRecipe
    """What it is written by: one format, at most one profile, and the settings of these."""
    file: str
    """Its name in the bundle: that of the format, with the profile's name where several have the same format."""
    engine: bool
    """Whether an engine is built from it."""

    @property
    def form(self) -> QuantizedForm:
        """The form of a quantized program."""
        return FORMS[self.recipe.form]


def targets(recipe: ResolvedRecipe) -> tuple[Target, ...]:
    """Returns the artifacts that a recipe asks for, in the order of its profiles and formats.

    An engine starts from an ONNX file for its GPU, which is one of them.

    Args:
        recipe: of the whole export.

    Raises:
        BadRecipe: what the recipe says contradicts a profile, or the opset has no form for what it asks for.
    """
    found: dict[tuple[str, ...], Target] = {}
    for profile in recipe.profiles or ("",):
        for name in recipe.formats:
            if profile and name not in named(profile).formats:
                continue
            one = _target(recipe, name, profile or FORMATS[name].profile)
            key = (one.format, *one.recipe.profiles)
            found[key] = replace(one, engine=one.engine or (key in found and found[key].engine))
    shared = Counter(one.file for one in found.values())
    return tuple(replace(one, file=_with_profile(one)) if shared[one.file] > 1 else one for one in found.values())


def strictest(found: Sequence[Target]) -> QuantizedForm:
    """Returns the form of a quantized program that all of the artifacts can be lowered from."""
    return max((one.form for one in found), key=lambda form: form.strictness)


def _target(recipe: ResolvedRecipe, name: str, profile: str) -> Target:
    written = FORMATS[name].made_from or name
    asked = replace(recipe, formats=(name,), profiles=())
    filled = apply(asked, profile) if profile else asked
    form = ENGINE if profile and named(profile).has_engines else FORMATS[written].form
    entries = {entry.name: getattr(filled, entry.name) for entry in fields(ExportRecipe)}
    padded = recipe.pad_heads and form == ENGINE
    alone = ResolvedRecipe(**{**entries, "formats": (written,), "form": form, "pad_heads": padded})
    packed = packs_weights(alone) if FORMATS[written].half_scales_since else True
    found = replace(alone, rest=_rest(alone, written), packed_weights=packed)
    return Target(written, found, FORMATS[written].file, written != name)


def _rest(recipe: ResolvedRecipe, name: str) -> FloatType | None:
    """Returns the type of what is not quantized; None where nothing is quantized.

    Raises:
        BadRecipe: fp16 was asked for, and the quantizers of the scheme or of the opset take float32 alone.
    """
    if recipe.precision not in SCHEMES:
        return None
    oldest = FORMATS[name].half_scales_since
    if oldest and recipe.precision is Precision.INT8_DYNAMIC:
        if recipe.rest is FloatType.FP16:
            raise BadRecipe("--rest fp16 is not for int8-dynamic: ONNX finds the ranges of float32 values alone.")
        return FloatType.FP32
    if recipe.opset is None or recipe.opset >= oldest:
        return recipe.rest or FORMS[recipe.form].rest
    if recipe.rest is FloatType.FP16:
        raise BadRecipe(
            f"--rest fp16 needs opset {oldest}, from which on quantizers take float16 values; got {recipe.opset}."
        )
    return FloatType.FP32


def _with_profile(target: Target) -> str:
    """Returns the name of a file with that of its profile, such as ``model.rtx.onnx``."""
    path = PurePath(target.file)
    return "".join((path.stem, *(f".{name}" for name in target.recipe.profiles), path.suffix))
