# SPDX-License-Identifier: Apache-2.0
"""Recipes: what the user asked for, as frozen records that go into the manifest and can be read from TOML."""

from vitedge.recipe.checks import check_finite, check_image_count, check_image_size, check_tolerance, check_whole
from vitedge.recipe.export import IMAGE_COUNT, ExportRecipe, ResolvedRecipe
from vitedge.recipe.quantization import CALIBRATION_COUNT, QuantizationRecipe
from vitedge.recipe.settings import (
    CALIBRATED,
    SCHEMES,
    Activations,
    AttentionChoice,
    FloatType,
    InputType,
    LayerScheme,
    Precision,
    RangeMethod,
    Setting,
    WeightRounding,
    named_setting,
)
from vitedge.recipe.toml import read_entries

__all__ = [
    "CALIBRATED",
    "CALIBRATION_COUNT",
    "IMAGE_COUNT",
    "SCHEMES",
    "Activations",
    "AttentionChoice",
    "ExportRecipe",
    "FloatType",
    "InputType",
    "LayerScheme",
    "Precision",
    "QuantizationRecipe",
    "RangeMethod",
    "ResolvedRecipe",
    "Setting",
    "WeightRounding",
    "check_finite",
    "check_image_count",
    "check_image_size",
    "check_tolerance",
    "check_whole",
    "named_setting",
    "read_entries",
]
