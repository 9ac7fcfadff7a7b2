# SPDX-License-Identifier: Apache-2.0
"""Reads from a configuration what weights do not hold: preprocessing, image size, labels.

Two configurations are understood: timm's ``pretrained_cfg`` and Hugging Face's ``config.json`` with
``preprocessor_config.json``.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

from vitedge.checkpoints.families.family import Hints, State
from vitedge.errors import UnknownArchitecture, WeightsMismatch
from vitedge.records import Origin, Preprocessing

_RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers, which ``preprocessor_config.json`` uses."""

ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "relu6": "relu6",
    "leaky_relu": "leaky_relu",
    "elu": "elu",
    "celu": "celu",
    "selu": "selu",
    "silu": "silu",
    "swish": "silu",
    "mish": "mish",
    "sigmoid": "sigmoid",
    "tanh": "tanh",
    "hard_sigmoid": "hard_sigmoid",
    "hardsigmoid": "hard_sigmoid",
    "hard_swish": "hard_swish",
    "hardswish": "hard_swish",
    "linear": "identity",
    "identity": "identity",
}
"""Value of Hugging Face's ``hidden_act`` or timm's ``act_layer`` to the one of `ModelSpec.activation`."""


def shape_of(state: State, name: str) -> tuple[int, ...]:
    """Returns the shape of a weight that the architecture needs.

    Raises:
        WeightsMismatch: it is missing.
    """
    if name not in state:
        raise WeightsMismatch(f"The checkpoint lacks the weight {name}; is the file complete?")
    return tuple(state[name].shape)


def mlp_ratio(hidden: int, width: int) -> float:
    """Returns the MLP ratio from which timm, by ``int(width * ratio)``, computes exactly this hidden width."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf)


def find_activation(hints: Hints, table: str) -> tuple[str, Origin]:
    """Returns the activation that the configuration names, or that of the table, and which of the two it is.

    Raises:
        UnknownArchitecture: ``hidden_act`` is none that timm's modules can be built with.
    """
    name = hints.config.get("hidden_act")
    if name is None or "activation" in hints.overrides:
        return table, Origin.TABLE
    if str(name).lower() not in ACTIVATIONS:
        raise UnknownArchitecture(
            f"The configuration asks for the activation {name!r}; known are {', '.join(ACTIVATIONS)}."
        )
    return ACTIVATIONS[str(name).lower()], Origin.CONFIG


def find_map_pool(hints: Hints) -> dict[str, str]:
    """Returns the option ``pool`` of a family that ends in a map, where timm's ``global_pool`` is not the mean."""
    pool = hints.config.get("global_pool")
    return {"pool": pool} if pool in ("max", "avgmax") else {}


def find_image_size(hints: Hints) -> tuple[tuple[int, int], Origin] | None:
    """Returns height and width in pixels as the user or a configuration names them, or None."""
    given = hints.overrides.get("image_size")
    if given is not None:
        return edges(given), Origin.GIVEN
    if "input_size" in hints.config:
        return edges(hints.config["input_size"][-2:]), Origin.CONFIG
    cropped = hints.preprocessor.get("crop_size") if hints.preprocessor.get("do_center_crop", True) else None
    named = cropped or hints.config.get("image_size")
    return (edges(named), Origin.CONFIG) if named else None


def edges(size: Any) -> tuple[int, int]:
    """Returns height and width from a number, a pair, or Hugging Face's ``{height, width}``."""
    if isinstance(size, Mapping):
        size = (size["height"], size["width"]) if "height" in size else size["shortest_edge"]
    if isinstance(size, (int, float)):
        size = (size, size)
    height, width = size
    return int(height), int(width)


def find_labels(hints: Hints, classes: int) -> tuple[str, ...]:
    """Returns the class names of ``label_names`` or ``id2label``; none where they are generic or of another number."""
    names = hints.config.get("label_names")
    if not names:
        table = hints.config.get("id2label") or {}
        names = [text for _, text in sorted((int(key), text) for key, text in table.items())]
    labels = tuple(str(name) for name in names)
    is_generic = all(re.fullmatch(r"LABEL_\d+", label) for label in labels)
    return () if is_generic or len(labels) != classes else labels


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
