# SPDX-License-Identifier: Apache-2.0
"""Reads from a configuration what weights do not hold: activation, image size, labels.

Two configurations are understood: timm's ``pretrained_cfg`` and Hugging Face's ``config.json`` with
``preprocessor_config.json``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from vitedge.checkpoints.families.family import Hints, State
from vitedge.errors import UnknownArchitecture, WeightsMismatch
from vitedge.records import Origin

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
        raise WeightsMismatch(
            f"There is no weight {name}, which the family needs: this is another architecture or a part of the model; "
            "pass the whole model's weights."
        )
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
    names = next((hints.config[key] for key in ("label_names", "labels", "id2label") if hints.config.get(key)), ())
    if isinstance(names, Mapping):
        names = [text for _, text in sorted((int(key), text) for key, text in names.items())]
    labels = tuple(str(name) for name in names)
    is_generic = all(re.fullmatch(r"LABEL_\d+", label) for label in labels)
    return () if is_generic or len(labels) != classes else labels
