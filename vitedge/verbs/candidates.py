# SPDX-License-Identifier: Apache-2.0
"""The candidates of ``compare``: which formats and precisions are tried, and what each is exported by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from vitedge.devices.fitting import AUTO, fitting_profile
from vitedge.devices.profiles import named
from vitedge.devices.session import connect
from vitedge.errors import BadRecipe, MissingBackend, UserError
from vitedge.export import formats
from vitedge.latency.sampling import Rule
from vitedge.progress import say
from vitedge.quantization.file.header import SUFFIX
from vitedge.recipe import (
    SCHEMES,
    ExportRecipe,
    Precision,
    QuantizationRecipe,
    ResolvedRecipe,
    check_finite,
    check_whole,
)
from vitedge.registry import check_device
from vitedge.verbs.impossible import refuse_device, refuse_missing
from vitedge.verbs.quantize import settings
from vitedge.verbs.resolve import resolve

PRECISIONS = (Precision.FP32, Precision.FP16, Precision.INT8)
"""What is tried where no profile says what a device runs."""
FURTHER: Mapping[str, tuple[Precision, ...]] = {"processor": (Precision.INT8_DYNAMIC,)}
"""Form of a quantized program to the schemes besides int8 that its runtime computes quickly: ``int8-dynamic`` takes
1.09 x the time of ``int8`` for ViT-S in ONNX Runtime, where fp32 takes 2.5 x, as
``benchmarks/results/quantization_speed.json`` has it. They are tried where a profile names the device."""


@dataclass(frozen=True)
class CompareOptions:
    """What is compared, by what, and where."""

    recipe: ExportRecipe = field(default_factory=ExportRecipe)
    """What all candidates have in common: images, image size, profiles, device, settings of quantization … Its formats
    and its precision are those of the candidates; None is what the profiles offer."""
    precisions: tuple[Precision, ...] = ()
    """The precisions to try; empty is what the profiles offer, or `PRECISIONS`."""
    eval_images: str | None = None
    """Labelled images that top-1 is counted on, as `vitedge.images.labelled.find_labelled` takes them."""
    max_drop: float | None = None
    """Percentage points of top-1 that a candidate may lose against the reference."""
    threads: int | None = None
    """Processor threads of the measurement; None is all physical cores of the device."""
    rule: Rule = field(default_factory=Rule)
    """How long is measured."""

    def __post_init__(self) -> None:
        check_whole("--threads", self.threads, 1)
        check_finite("--max-drop, in percentage points,", self.max_drop, 0, 100)
        check_device(self.recipe.device)
        if self.max_drop is not None and self.eval_images is None:
            raise BadRecipe("--max-drop counts labelled images: add --eval LABELLED_DIR.")


@dataclass(frozen=True)
class Planned:
    """A candidate before it is made."""

    name: str
    asked: ExportRecipe
    """What would be typed to export it."""
    recipe: ResolvedRecipe | None
    """None where it cannot be made."""
    refused: UserError | MissingBackend | None = None
    """Why it cannot be made."""


def plan(source: str, options: CompareOptions) -> tuple[Planned, ...]:
    """Returns the candidates, those that cannot be made with the reason; nothing is read or made for it.

    Args:
        source: the checkpoint.
        options: what was asked for.

    Raises:
        BadRecipe: the source is quantized already; or no candidate can be made, for something that was asked for.
        MissingBackend: no candidate can be made, or run on the device.
        DeviceFailed: the device is out of reach.
    """
    if source.endswith(SUFFIX):
        raise BadRecipe(
            f"{source} is quantized already, to one precision: compare the checkpoint that it was made from, or "
            "measure files with vitedge bench."
        )
    found = tuple(_planned(source, name, asked) for name, asked in _asked(options))
    refused = [one.refused for one in found if one.refused is not None]
    if len(refused) == len(found):
        raise type(refused[0])(" ".join(dict.fromkeys(map(str, refused))))
    return found


def _asked(options: CompareOptions) -> Iterator[tuple[str, ExportRecipe]]:
    """Yields name and recipe of every candidate."""
    common = _of_device(options.recipe)
    for profile in common.profiles or ("",):
        for form in _formats(common, profile):
            chosen = options.precisions or ((common.precision,) if common.precision else _offered(profile, form))
            for precision in chosen:
                name = " ".join((form, precision, *([profile] if len(common.profiles) > 1 else [])))
                profiles = (profile,) if profile else ()
                yield name, _with_images(replace(common, formats=(form,), profiles=profiles), precision)


def _of_device(recipe: ExportRecipe) -> ExportRecipe:
    """Returns a recipe in which the profile ``auto`` is the name of the one that fits the device, asked once."""
    if AUTO not in recipe.profiles:
        return recipe
    with connect(recipe.device) as session:
        name = fitting_profile(session.identity(), recipe.device)
    say(f"profile: {name}, as {recipe.device} tells of itself")
    return replace(recipe, profiles=tuple(dict.fromkeys(name if one == AUTO else one for one in recipe.profiles)))


def _formats(recipe: ExportRecipe, profile: str) -> tuple[str, ...]:
    """Returns the formats to try; what another one is made from is in that one's bundle."""
    found = recipe.formats or (named(profile).formats if profile else (formats.DEFAULT,))
    sources = {formats.named(name).made_from for name in found}
    return tuple(name for name in dict.fromkeys(found) if name not in sources)


def _offered(profile: str, form: str) -> tuple[Precision, ...]:
    """Returns the precisions to try of a format."""
    if not profile:
        return PRECISIONS
    known = named(profile)
    offered = [Precision(name) for name in known.precisions]
    compiled = formats.ENGINE if known.has_engines else formats.FORMATS[form].form
    if Precision.INT8 in offered:
        offered += [Precision.W8] if known.scheme == Precision.W8 and compiled == "coreml" else []
        offered += FURTHER.get(compiled, ())
    order = list(Precision)
    return tuple(sorted(dict.fromkeys(offered), key=order.index))


def _with_images(recipe: ExportRecipe, precision: Precision) -> ExportRecipe:
    """Returns the recipe of a precision, calibrated on the images that parity is measured on, as ``export`` does."""
    if precision not in SCHEMES:
        return replace(recipe, precision=precision, rest=None, quantization=None)
    calibration = recipe.quantization or QuantizationRecipe(precision, seed=recipe.seed)
    images = calibration.images or (None if recipe.images == ExportRecipe.images else recipe.images)
    return replace(recipe, precision=precision, quantization=replace(calibration, scheme=precision, images=images))


def _planned(source: str, name: str, asked: ExportRecipe) -> Planned:
    try:
        recipe = resolve(asked, source)
        if recipe.precision in SCHEMES:
            settings(recipe)
        refuse_missing(recipe)
        refuse_device(recipe)
    except (UserError, MissingBackend) as error:
        return Planned(name, asked, None, error)
    return Planned(name, asked, recipe)
