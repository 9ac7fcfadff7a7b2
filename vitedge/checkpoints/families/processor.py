# SPDX-License-Identifier: Apache-2.0
"""Reads how images are prepared from timm's ``pretrained_cfg`` or Hugging Face's ``preprocessor_config.json``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from vitedge.checkpoints.families.configuration import edges
from vitedge.checkpoints.families.family import Hints
from vitedge.records import Origin, Preprocessing

_RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers, which ``preprocessor_config.json`` uses."""


def find_preprocessing(
    hints: Hints, table: Preprocessing, channels: int
) -> tuple[Preprocessing, dict[str, Origin], tuple[str, ...]]:
    """Returns the preprocessing: a configuration's values, and the table's entry for everything else.

    Args:
        hints: the configuration.
        table: what the family's published models use.
        channels: of the model's input; a mean and a std of another length are averaged over.

    Returns:
        The preprocessing, the origin of each of its fields, and notes.
    """
    found = {**_from_timm(hints.config), **_from_hugging_face(hints.preprocessor)}
    origins = {
        f"preprocessing.{field.name}": Origin.CONFIG if field.name in found else Origin.TABLE
        for field in dataclasses.fields(Preprocessing)
    }
    notes: tuple[str, ...] = ()
    merged = dataclasses.replace(table, **found)
    if merged.crop > 1:
        notes = (f"The processor crops more than it resizes to ({merged.crop:.2f}); the margin is taken as none.",)
        merged = dataclasses.replace(merged, crop=1.0)
    if len(merged.mean) != channels:
        mean, std = (sum(values) / len(values) for values in (merged.mean, merged.std))
        merged = dataclasses.replace(merged, mean=(mean,) * channels, std=(std,) * channels)
        origins |= {"preprocessing.mean": Origin.ASSUMED, "preprocessing.std": Origin.ASSUMED}
    return merged, origins, notes


def _from_timm(config: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {
        name: tuple(float(value) for value in config[name]) for name in ("mean", "std") if config.get(name)
    }
    if config.get("interpolation"):
        found["interpolation"] = str(config["interpolation"])
    if config.get("crop_pct"):
        found["crop"] = float(config["crop_pct"])
    return found


def _from_hugging_face(processor: Mapping[str, Any]) -> dict[str, Any]:
    if not processor:
        return {}
    found: dict[str, Any] = {}
    flip = bool(processor.get("do_flip_channel_order"))
    if "do_flip_channel_order" in processor:
        found["channel_order"] = "bgr" if flip else "rgb"
    if processor.get("resample") in _RESAMPLING:
        found["interpolation"] = _RESAMPLING[processor["resample"]]
    # MobileViT's processor writes image_mean without ever subtracting it: only do_normalize tells.
    if processor.get("do_normalize") and "image_mean" in processor:
        step = -1 if flip else 1  # it normalizes in RGB and flips afterwards
        found["mean"] = tuple(processor["image_mean"][::step])
        found["std"] = tuple(processor["image_std"][::step])
    crop = _crop_of(processor)
    return found if crop is None else {**found, "crop": crop}


def _crop_of(processor: Mapping[str, Any]) -> float | None:
    size, cropped = processor.get("size"), processor.get("crop_size")
    if not size or not processor.get("do_resize", True):
        return None
    if not cropped or not processor.get("do_center_crop", True):
        return 1.0
    return min(edges(cropped)) / min(edges(size))
