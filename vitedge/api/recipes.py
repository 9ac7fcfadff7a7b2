# SPDX-License-Identifier: Apache-2.0
"""Recipes from what was said one by one: files, records, and the images that they are for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitedge.api.images import as_images
from vitedge.api.settings import combined
from vitedge.files.plain import from_dict
from vitedge.recipe import CALIBRATION_COUNT, SCHEMES, ExportRecipe, Precision, QuantizationRecipe, read_entries

if TYPE_CHECKING:
    from vitedge.api.images import Images


def as_recipe(recipe: ExportRecipe | str | os.PathLike[str] | None) -> ExportRecipe | None:
    """Returns the recipe itself, read where it is a file.

    Raises:
        BadRecipe: the file cannot be read as a recipe.
    """
    if isinstance(recipe, (str, os.PathLike)):
        return from_dict(ExportRecipe, read_entries(Path(recipe)))
    return recipe


def for_export(
    recipe: ExportRecipe | None, said: Mapping[str, Any], images: Images | None, *, normalized: bool
) -> ExportRecipe:
    """Returns the recipe of an export: the images are those of parity and, where it quantizes, of calibration.

    Args:
        recipe: settings that are said together.
        said: settings that are said one by one.
        images: those that a user names or holds; these are taken once, as many as the larger use needs.
        normalized: whether arrays of them are the model's input.

    Raises:
        BadRecipe: a setting is said twice, differently.
        BadImages: the images cannot be used.
    """
    found = combined(ExportRecipe, recipe, said)
    own = found.quantization
    if own is None and found.precision in SCHEMES and images is not None:
        own = QuantizationRecipe(found.precision)
    count = max(found.image_count, 0 if own is None else own.image_count)
    return _with_images(replace(found, quantization=own), as_images(images, count, found.seed, normalized=normalized))


def for_comparison(
    recipe: ExportRecipe | None, said: Mapping[str, Any], images: Images | None, *, normalized: bool
) -> ExportRecipe:
    """Returns what the candidates of a comparison share: as `for_export`, with images enough for calibration.

    Args:
        recipe: settings that are said together.
        said: settings that are said one by one.
        images: those that a user names or holds; these are taken once.
        normalized: whether arrays of them are the model's input.

    Raises:
        BadRecipe: a setting is said twice, differently.
        BadImages: the images cannot be used.
    """
    found = combined(ExportRecipe, recipe, said)
    calibration = found.quantization or QuantizationRecipe()
    count = max(found.image_count, calibration.image_count)
    return _with_images(found, as_images(images, count, found.seed, normalized=normalized))


def _with_images(recipe: ExportRecipe, images: str | None) -> ExportRecipe:
    """Returns a recipe whose images are those of parity and, where it quantizes, of calibration.

    Raises:
        BadRecipe: it names others.
    """
    own = recipe.quantization
    if own is not None:
        own = combined(QuantizationRecipe, own, {"images": images})
    return replace(combined(ExportRecipe, recipe, {"images": images}), quantization=own)


def for_quantization(
    recipe: ExportRecipe | None,
    said: Mapping[str, Any],
    settings: Mapping[str, Any],
    images: Images | None,
    *,
    normalized: bool,
) -> ExportRecipe:
    """Returns the recipe of a quantization, int8 where none is said; see `for_export`.

    Args:
        recipe: settings that are said together.
        said: settings of the program that are said one by one.
        settings: settings of quantization that are said one by one.
        images: those of calibration.
        normalized: whether arrays of them are the model's input.

    Raises:
        BadRecipe: a setting is said twice, differently.
        BadImages: the images cannot be used.
    """
    found = combined(ExportRecipe, recipe, said)
    own = found.quantization or QuantizationRecipe(found.precision or Precision.INT8)
    count = settings.get("image_count") or own.image_count or CALIBRATION_COUNT
    named = as_images(images, count, own.seed, normalized=normalized)
    return replace(found, quantization=combined(QuantizationRecipe, own, {**settings, "images": named}))
