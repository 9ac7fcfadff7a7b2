# SPDX-License-Identifier: Apache-2.0
"""The structure of MobileViT v1 and v2: convolutional stages, some of which end in a transformer.

The per-stage tuples of the spec have one entry for each stage with a transformer. ``options`` holds the skeleton:
    ``stem``: channels of the first convolution.
    ``channels``: output channels of each stage.
    ``expansions``: for each stage, the inner channels of its inverted residuals.
    ``strides``: stride of the first inverted residual of each stage.
    ``dilations``: dilation of the same convolution.
    ``transformers``: indices of the stages that end in a MobileViT block.
    ``kernel``: edge of the convolution before the transformer.
    ``features``: channels of the last 1x1 convolution, 0 if there is none.
    ``fusion``: whether the block's output is fused with its input (v1).
    ``pool``: ``max`` or ``avgmax`` (half the sum of both) of the last map, where it is not the mean.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from vitedge.checkpoints.families.configuration import (
    edges,
    find_activation,
    find_image_size,
    find_labels,
    find_map_pool,
    mlp_ratio,
    shape_of,
)
from vitedge.checkpoints.families.family import Hints, State
from vitedge.checkpoints.families.heads import told_heads
from vitedge.checkpoints.families.processor import find_preprocessing
from vitedge.errors import UnknownArchitecture
from vitedge.records import ModelSpec, Origin, Preprocessing

DEFAULT_EDGE = 256
"""Image size of the published models."""
MAX_STRIDE = 32
"""timm's ``ByobNet`` dilates instead of striding beyond this, unless told otherwise."""

_ROUNDED_TO = 8
"""timm rounds every width inside a stage to a multiple of this, so no other width can be built."""


@dataclass(frozen=True)
class MobileViTStructure:
    """Stages and transformers, as the shapes of the weights tell them."""

    in_channels: int
    classes: int
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    mlp_ratios: tuple[float, ...]
    options: dict[str, Any]


def read_structure(state: State, attention: str) -> MobileViTStructure:
    """Reads the structure from names and shapes.

    Args:
        state: weights in timm's names.
        attention: name of the weight, below a transformer layer, whose second axis is the transformer's width.

    Raises:
        UnknownArchitecture: a stage that is not inverted residuals with at most one MobileViT block at the end.
        WeightsMismatch: a weight without which nothing can be said is missing.
    """
    stem, in_channels, _, _ = shape_of(state, "stem.conv.weight")
    stages = _blocks_of_stages(state)
    channels, expansions, transformers = [], [], []
    for stage, kinds in enumerate(stages):
        prefix = f"stages.{stage}"
        residuals = kinds.count("residual")
        if not residuals or kinds != ["residual"] * residuals + ["transformer"] * (len(kinds) - residuals):
            raise UnknownArchitecture(f"{prefix} is not inverted residuals followed by a MobileViT block.")
        if len(kinds) - residuals > 1:
            raise UnknownArchitecture(f"{prefix} has {len(kinds) - residuals} MobileViT blocks; one is supported.")
        if len(kinds) > residuals:
            transformers.append((stage, f"{prefix}.{residuals}"))
        channels.append(shape_of(state, f"{prefix}.0.conv3_1x1.conv.weight")[0])
        expansions.append(
            tuple(shape_of(state, f"{prefix}.{block}.conv1_1x1.conv.weight")[0] for block in range(residuals))
        )
    _check_rounding([*channels, *(inner for stage in expansions for inner in stage)])
    widths = tuple(shape_of(state, f"{block}.transformer.0.{attention}")[1] for _, block in transformers)
    hidden = [shape_of(state, f"{block}.transformer.0.mlp.fc1.weight")[0] for _, block in transformers]
    first = transformers[0][1]
    return MobileViTStructure(
        in_channels=in_channels,
        classes=state["head.fc.weight"].shape[0] if "head.fc.weight" in state else 0,
        widths=widths,
        depths=tuple(_depth(state, block) for _, block in transformers),
        mlp_ratios=tuple(mlp_ratio(inner, width) for inner, width in zip(hidden, widths, strict=True)),
        options={
            "stem": stem,
            "channels": tuple(channels),
            "expansions": tuple(expansions),
            "transformers": tuple(stage for stage, _ in transformers),
            "kernel": shape_of(state, f"{first}.conv_kxk.conv.weight")[2],
            "features": state["final_conv.conv.weight"].shape[0] if "final_conv.conv.weight" in state else 0,
            "fusion": f"{first}.conv_fusion.conv.weight" in state,
        },
    )


def _blocks_of_stages(state: State) -> list[list[str]]:
    """Returns for each stage the kinds of its blocks, in order."""
    found: dict[int, dict[int, str]] = {}
    for name in state:
        match = re.match(r"stages\.(\d+)\.(\d+)\.(conv1_1x1|conv_kxk)\.", name)
        if match:
            kind = "residual" if match[3] == "conv1_1x1" else "transformer"
            found.setdefault(int(match[1]), {})[int(match[2])] = kind
    stages = [[kind for _, kind in sorted(found.get(stage, {}).items())] for stage in range(max(found, default=-1) + 1)]
    if not any("transformer" in kinds for kinds in stages):
        raise UnknownArchitecture("No stage has a MobileViT block; this looks like another convolutional network.")
    return stages


def _depth(state: State, block: str) -> int:
    layers = (re.match(rf"{re.escape(block)}\.transformer\.(\d+)\.", name) for name in state)
    return max(int(match[1]) for match in layers if match) + 1


def _check_rounding(channels: list[int]) -> None:
    odd = sorted({count for count in channels if count % _ROUNDED_TO})
    if odd:
        raise UnknownArchitecture(
            f"MobileViT's channels are multiples of {_ROUNDED_TO}; this checkpoint has {', '.join(map(str, odd))}."
        )


@dataclass(frozen=True)
class Traits:
    """The differences of v1 and v2, for `infer_spec`."""

    family: str
    attention: str
    """Name of the weight, below a transformer layer, whose second axis is the transformer's width."""
    published_name: Callable[[MobileViTStructure], str]
    """Returns the name of the published model with this structure, or the empty string."""
    custom_name: str
    default_heads: int
    """Attention heads of all published models."""
    preprocessing: Mapping[str, Preprocessing]
    """Naming to the preprocessing of its models; ``""`` for all others."""


def infer_spec(state: State, naming: str, hints: Hints, traits: Traits) -> ModelSpec:
    """Infers the spec of a MobileViT, with the origin of every fact.

    Raises:
        UnknownArchitecture: shapes that timm's modules cannot be built with.
        WeightsMismatch: a weight without which nothing can be said is missing.
    """
    structure = read_structure(state, traits.attention)
    name = traits.published_name(structure)
    stages = len(structure.options["channels"])
    strides, strides_origin, strides_notes = find_strides(hints, stages, published=bool(name) or naming != "timm")
    pool = find_map_pool(hints)
    options = {**structure.options, **strides, **pool}
    heads, heads_origin, heads_notes = find_heads(hints, structure.widths, traits.default_heads, published=bool(name))
    image_size, patch, geometry_origins, notes = find_geometry(hints, options, published=bool(name))
    table = traits.preprocessing.get(naming, traits.preprocessing[""])
    preprocessing, origins, more = find_preprocessing(hints, table, structure.in_channels)
    activation, activation_origin = find_activation(hints, "silu")
    labels = find_labels(hints, structure.classes)
    spec = ModelSpec(
        family=traits.family,
        variant=name or f"custom {traits.custom_name} ({_described(structure)})",
        naming=naming,
        image_size=image_size,
        in_channels=structure.in_channels,
        classes=structure.classes,
        widths=structure.widths,
        depths=structure.depths,
        heads=heads,
        mlp_ratios=structure.mlp_ratios,
        patch=patch,
        tokens=(),
        norm_eps=float(hints.config.get("layer_norm_eps", 1e-5)),
        activation=activation,
        preprocessing=preprocessing,
        labels=labels,
        options=options,
        origins={
            **dict.fromkeys(("in_channels", "classes", "widths", "depths", "mlp_ratios"), Origin.SHAPE),
            **{f"options.{key}": Origin.SHAPE for key in structure.options},
            **{f"options.{key}": strides_origin for key in strides},
            **{f"options.{key}": Origin.CONFIG for key in pool},
            **origins,
            **geometry_origins,
            **({"labels": Origin.CONFIG} if labels else {}),
            "tokens": Origin.TABLE,
            "heads": heads_origin,
            "norm_eps": Origin.CONFIG if "layer_norm_eps" in hints.config else Origin.TABLE,
            "activation": activation_origin,
        },
        notes=(*heads_notes, *strides_notes, *notes, *more),
    )
    return replace(spec, notes=(*spec.notes, *size_notes(spec)))


def _described(structure: MobileViTStructure) -> str:
    parts = {"channels": structure.options["channels"], "widths": structure.widths, "depths": structure.depths}
    return ", ".join(f"{name} {'-'.join(map(str, values))}" for name, values in parts.items())


def find_strides(hints: Hints, stages: int, *, published: bool) -> tuple[dict[str, Any], Origin, tuple[str, ...]]:
    """Returns ``strides`` and ``dilations`` of the stages, which no weight tells.

    All published models halve the map in every stage but the first; a segmentation backbone (``output_stride`` of a
    Hugging Face config) keeps it in the last one or two. Only timm lets a user choose.

    Raises:
        UnknownArchitecture: an output stride that the library does not have.
    """
    strides, dilations = [1] + [2] * (stages - 1), [1] * stages
    output_stride = hints.config.get("output_stride", MAX_STRIDE)
    if output_stride not in (8, 16, MAX_STRIDE):
        raise UnknownArchitecture(
            f"The configuration asks for an output stride of {output_stride}; 8, 16 and 32 exist."
        )
    if output_stride < MAX_STRIDE:
        strides[-1] = 1
    if output_stride == 8:
        strides[-2], dilations[-1] = 1, 2
    told = "output_stride" in hints.config
    origin = Origin.CONFIG if told else Origin.TABLE if published else Origin.ASSUMED
    notes: tuple[str, ...] = ()
    if origin is Origin.ASSUMED:
        written = "-".join(map(str, strides))
        notes = (f"No file holds the strides of the stages; {written} is assumed, as all published models have them.",)
    return {"strides": tuple(strides), "dilations": tuple(dilations)}, origin, notes


def total_stride(options: Mapping[str, Any]) -> int:
    """Returns the pixels between neighbouring positions of the last map."""
    return _strides_of_stages(options)[-1]


def _strides_of_stages(options: Mapping[str, Any]) -> list[int]:
    """Returns the pixels between neighbouring positions of the map of each stage."""
    strides, stride = [], 2  # the stem halves the image
    for factor in options["strides"]:
        if stride * factor <= MAX_STRIDE:
            stride *= factor
        strides.append(stride)
    return strides


def size_notes(spec: ModelSpec) -> tuple[str, ...]:
    """Returns a note where the library that a MobileViT came from computes something else at its image size.

    Where a map does not divide into patches, ml-cvnets and timm resize it, and so does transformers for v1. Its v2 cuts
    the remainder off, and puts zeros in its place after the transformer.
    """
    strides = _strides_of_stages(spec.options)
    whole = math.lcm(strides[-1], *(strides[stage] * spec.patch for stage in spec.options["transformers"]))
    if (spec.family, spec.naming) != ("mobilevitv2", "huggingface") or all(
        edge % whole == 0 for edge in spec.image_size
    ):
        return ()
    height, width = spec.image_size
    return (
        f"At {height}x{width} pixels some maps do not divide into patches. This model resizes them, as Apple does; "
        f"transformers cuts them off and gives other logits. Both agree at multiples of {whole} (--image-size).",
    )


def find_geometry(
    hints: Hints, options: Mapping[str, Any], *, published: bool
) -> tuple[tuple[int, int], int, dict[str, Origin], tuple[str, ...]]:
    """Returns image size and patch, which no weight tells, their origins, and notes."""
    patch, patch_origin = _patch(hints)
    step = total_stride(options)
    known = find_image_size(hints)
    table = Origin.TABLE if published else Origin.ASSUMED
    default = -(-DEFAULT_EDGE // step) * step
    size, origin = known or ((default, default), table)
    notes: tuple[str, ...] = ()
    if origin is Origin.ASSUMED:
        notes += (f"No file holds the image size; {default}x{default} is assumed; --set image_size= corrects it.",)
    return size, patch, {"image_size": origin, "patch": patch_origin}, notes


def _patch(hints: Hints) -> tuple[int, Origin]:
    if "patch" in hints.overrides:
        return int(hints.overrides["patch"]), Origin.GIVEN
    if "patch_size" in hints.config:
        height, width = edges(hints.config["patch_size"])
        if height != width:
            raise UnknownArchitecture(f"MobileViT's patches are square; the configuration has {height}x{width}.")
        return height, Origin.CONFIG
    return 2, Origin.TABLE


def find_heads(
    hints: Hints, widths: tuple[int, ...], default: int, *, published: bool
) -> tuple[tuple[int, ...], Origin, tuple[str, ...]]:
    """Returns the heads of each transformer: given, else configured, else the default.

    Raises:
        UnknownArchitecture: a number that does not divide the widths.
    """
    told = told_heads(hints, widths)
    if told is not None:
        return (*told, ())
    count = next(count for count in (default, 2, 1) if all(width % count == 0 for width in widths))
    if published or default == 1:
        return (count,) * len(widths), Origin.TABLE, ()
    note = f"No file holds the number of heads; {count} is assumed; --set heads= corrects it."
    return (count,) * len(widths), Origin.ASSUMED, (note,)
