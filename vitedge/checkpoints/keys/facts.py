# SPDX-License-Identifier: Apache-2.0
"""What a key has to say of a spec: one entry a fact, which the tables of both libraries name."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from vitedge.checkpoints.families.configuration import ACTIVATIONS, edges
from vitedge.checkpoints.families.pit import grid_of
from vitedge.checkpoints.keys.meaning import (
    Fact,
    each,
    is_count,
    is_epsilon,
    is_first_scale,
    is_flag,
    is_name,
    is_positive,
    is_size,
    per_stage,
)
from vitedge.records import ModelSpec

LAYERNORM_EPS = 1e-6
"""Epsilon of the layer that timm makes of ``norm_layer: layernorm``."""


def _equal(field: str, kind: Callable[[Any], bool], shown: Callable[[ModelSpec], Any]) -> Fact:
    return Fact(field, kind, lambda value, spec: value == shown(spec), shown)


def _stages(field: str, shown: Callable[[ModelSpec], tuple[int, ...]]) -> Fact:
    """One whole number for each stage, or one for all."""
    return Fact(
        field,
        each(is_count),
        lambda value, spec: per_stage(value, len(shown(spec))) == tuple(shown(spec)),
        lambda spec: _plain(shown(spec)),
    )


def _plain(values: tuple[Any, ...]) -> Any:
    return values[0] if len(set(values)) == 1 else list(values)


def _hidden(spec: ModelSpec) -> tuple[int, ...]:
    return tuple(int(width * ratio) for width, ratio in zip(spec.widths, spec.mlp_ratios, strict=True))


def option(name: str, kind: Callable[[Any], bool] = is_flag) -> Fact:
    """Returns the fact of a part that is there or not: any value but false and zero switches it on."""
    return Fact(
        f"options.{name}",
        kind,
        lambda value, spec: bool(value) == bool(spec.options[name]),
        lambda spec: bool(spec.options[name]),
    )


LAYER_SCALE = option("layer_scale", is_first_scale)
HEADS = _stages("heads", lambda spec: spec.heads)
DEPTHS = _stages("depths", lambda spec: spec.depths)
WIDTH = _equal("widths", is_count, lambda spec: spec.widths[0])
LAST_WIDTH = _equal("widths", is_count, lambda spec: spec.widths[-1])
WIDTHS = _stages("widths", lambda spec: spec.widths)
HIDDEN = _equal("mlp_ratios", is_count, lambda spec: _hidden(spec)[0])
CHANNELS = _equal("in_channels", is_count, lambda spec: spec.in_channels)
STAGES = _equal("depths", is_count, lambda spec: len(spec.depths))
HEAD_WIDTHS = _stages(
    "widths", lambda spec: tuple(width // heads for width, heads in zip(spec.widths, spec.heads, strict=True))
)
CLASSES = Fact("classes", is_count, lambda value, spec: spec.classes in (0, value), lambda spec: spec.classes)
"""An encoder whose head was dropped or never saved has no classes, whatever a configuration says."""
EPS = Fact("norm_eps", is_epsilon, lambda value, spec: math.isclose(value, spec.norm_eps), lambda spec: spec.norm_eps)
ACTIVATION = Fact(
    "activation",
    lambda value: is_name(value) and value.lower() in ACTIVATIONS,
    lambda value, spec: ACTIVATIONS.get(value.lower()) == spec.activation,
    lambda spec: spec.activation,
)


def _same_ratios(value: Any, spec: ModelSpec) -> bool:
    ratios = per_stage(value, len(spec.widths))
    return _hidden(spec) == tuple(int(width * ratio) for width, ratio in zip(spec.widths, ratios, strict=False))


RATIO = Fact("mlp_ratios", each(is_positive), _same_ratios, lambda spec: _plain(spec.mlp_ratios))
PATCH = Fact("patch", is_size, lambda value, spec: edges(value) == (spec.patch, spec.patch), lambda spec: spec.patch)
IMAGE_SIZE = Fact(
    "image_size", is_size, lambda value, spec: edges(value) == spec.image_size, lambda spec: list(spec.image_size)
)


def _same_grid(value: Any, spec: ModelSpec) -> bool:
    if spec.family == "pit":
        stride = spec.options["stride"]
        return grid_of(edges(value), spec.patch, stride) == grid_of(spec.image_size, spec.patch, stride)
    return [edge // spec.patch for edge in edges(value)] == [edge // spec.patch for edge in spec.image_size]


GRID = Fact("image_size", is_size, _same_grid, lambda spec: list(spec.image_size))
"""The image size of a model whose positions are learned: the weights tell how many patches there are."""


# ViT.


def _pools(value: Any, spec: ModelSpec) -> bool:
    names = {"token": "class", "avg": "mean"}
    return spec.classes == 0 if value == "" else names.get(value, value) == spec.options["pool"]


def _stem_or_patch(value: Any, spec: ModelSpec) -> bool:
    """A hybrid's ``patch_size`` counts on the map of its stem."""
    edge = spec.options["stem_patch"] if spec.options["stem"] else spec.patch
    return edges(value) == (edge, edge)


def _swiglu_hidden(value: Any, spec: ModelSpec) -> bool:
    """DINOv2 of transformers keeps two thirds of a gated MLP, in multiples of 8, for gate and value each."""
    hidden = int(spec.widths[0] * value)
    if spec.options["mlp"] == "swiglu":
        hidden = 2 * ((int(hidden * 2 / 3) + 7) // 8 * 8)
    return hidden == _hidden(spec)[0]


POOL = Fact(
    "options.pool",
    lambda value: value in ("", "token", "avg", "max", "avgmax", "map"),
    _pools,
    lambda spec: spec.options["pool"],
)
VIT_PATCH = Fact("patch", is_size, _stem_or_patch, lambda spec: spec.patch)
DINO_RATIO = Fact("mlp_ratios", is_positive, _swiglu_hidden, lambda spec: spec.mlp_ratios[0])
REGISTERS = _equal("options.registers", is_count, lambda spec: spec.options["registers"])
CLASS_TOKEN = _equal("tokens", is_flag, lambda spec: "class" in spec.tokens)
DISTILLED = _equal("tokens", is_flag, lambda spec: "distillation" in spec.tokens)
NO_EMBED_CLASS = _equal("options.position_prefix", is_flag, lambda spec: not spec.options["position_prefix"])
SWIGLU = _equal("options.mlp", is_flag, lambda spec: spec.options["mlp"] == "swiglu")
FINAL_NORM = _equal("options.final_norm", is_flag, lambda spec: spec.options["final_norm"] != "none")
FC_NORM = Fact(
    "options.final_norm",
    is_flag,
    lambda value, spec: spec.options["final_norm"] in ("none", "pooled" if value else "tokens"),
    lambda spec: spec.options["final_norm"] == "pooled",
)
HF_ACTIVATION = Fact(
    "activation",
    ACTIVATION.kind,
    lambda value, spec: spec.options.get("mlp") == "swiglu" or ACTIVATION.agrees(value, spec),
    lambda spec: spec.activation,
)
"""transformers gates with SiLU, whatever ``hidden_act`` says."""
NORM_LAYER = Fact(
    "norm_eps",
    lambda value: is_name(value) and value.replace("_", "").lower() in ("layernorm", "layernormfp32"),
    lambda _value, spec: math.isclose(spec.norm_eps, LAYERNORM_EPS),
    lambda spec: f"a layer norm with an epsilon of {spec.norm_eps:g}",
)

# BEiT.

BEIT_POOL = Fact(
    "options.pool",
    lambda value: value in ("", "token", "avg"),
    lambda value, spec: spec.classes == 0 or value == spec.options["pool"],
    lambda spec: spec.options["pool"],
)
MEAN_POOLING = Fact(
    "options.pool",
    is_flag,
    lambda value, spec: spec.classes == 0 or bool(value) == (spec.options["pool"] == "avg"),
    lambda spec: spec.options["pool"] == "avg",
)
POOLED_NORM = Fact(
    "options.norm",
    is_flag,
    lambda value, spec: bool(value) == (spec.options["norm"] == "pooled"),
    lambda spec: spec.options["norm"] == "pooled",
)

# Swin.


def _windows(value: Any, spec: ModelSpec) -> bool:
    """Timm shrinks a window to its stage's map."""
    if isinstance(value, (list, tuple)) and len(value) == 2:  # timm: height and width of all windows
        value = value[0] if value[0] == value[1] else ()
    wanted = per_stage(value, len(spec.depths))
    for stage, found in enumerate(spec.options["window"]):
        maps = [-(-(edge // spec.patch) // 2**stage) for edge in spec.image_size]
        if stage >= len(wanted) or found not in (wanted[stage], min(wanted[stage], *maps)):
            return False
    return True


WINDOW = Fact("options.window", each(is_count), _windows, lambda spec: _plain(tuple(spec.options["window"])))
HEAD_DIM = _equal("heads", is_count, lambda spec: spec.widths[0] // spec.heads[0])
MAP_POOL = Fact(
    "options.pool",
    lambda value: value in ("", "avg", "max", "avgmax"),
    lambda value, spec: spec.classes == 0 if value == "" else value == spec.options.get("pool", "avg"),
    lambda spec: spec.options.get("pool", "avg"),
)

# PiT.

STRIDE = _equal("options.stride", is_count, lambda spec: spec.options["stride"])
TOKEN_POOL = Fact(
    "options.pool",
    lambda value: value in ("", "token"),
    lambda value, spec: value == "token" or spec.classes == 0,
    lambda _spec: "token",
)

# MobileViT.


def _divisible(value: float, divisor: int = 8, least: int | None = None) -> int:
    """Rounds channels as MobileNet and its kin do: to a multiple, and down by no more than a tenth."""
    rounded = max(least or divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def _expansions(value: Any, spec: ModelSpec) -> bool:
    channels = (spec.options["stem"], *spec.options["channels"])
    for stage, inner in enumerate(spec.options["expansions"]):
        incoming = (channels[stage], *(channels[stage + 1],) * (len(inner) - 1))
        if tuple(_divisible(round(count * value)) for count in incoming) != tuple(inner):
            return False
    return True


def _necks(value: Any, spec: ModelSpec) -> bool:
    options = spec.options
    found = (options["stem"], *options["channels"])
    return tuple(value[: len(found)]) == found and (not options["features"] or value[-1] == options["features"])


def _multiplied(value: Any, spec: ModelSpec) -> bool:
    """The channels of version 2 are multiples of one factor, rounded as transformers rounds them."""
    stem = _divisible(min(max(32 * value, 16), 64), 8, 16)
    channels = (_divisible(64 * value, 16), *(_divisible(count * value) for count in (128, 256, 384, 512)))
    return (stem, *channels) == (spec.options["stem"], *spec.options["channels"])


NECKS = Fact(
    "options.channels",
    lambda value: isinstance(value, (list, tuple)) and bool(value) and each(is_count)(value),
    _necks,
    lambda spec: [spec.options["stem"], *spec.options["channels"], spec.options["features"]],
)
EXPANSION = Fact(
    "options.expansions", is_positive, _expansions, lambda spec: spec.options["expansions"][0][0] / spec.options["stem"]
)
KERNEL = _equal("options.kernel", is_count, lambda spec: spec.options["kernel"])
MULTIPLIER = Fact("options.channels", is_positive, _multiplied, lambda spec: spec.options["channels"][0] / 64)
STEM = _equal("options.stem", each(is_count), lambda spec: spec.options["stem"])
LAST_CONVOLUTION = _equal("options.features", is_count, lambda spec: spec.options["features"])
