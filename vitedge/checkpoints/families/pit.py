# SPDX-License-Identifier: Apache-2.0
"""PiT, the pooling-based vision transformer (Heo et al., 2021, arXiv 2103.16302).

``options`` of its spec:
    ``stride``: pixels between the patches of the overlapping patch embedding.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from vitedge.checkpoints.families.configuration import (
    find_image_size,
    find_labels,
    mlp_ratio,
    shape_of,
)
from vitedge.checkpoints.families.family import Converted, Hints, Naming, State
from vitedge.checkpoints.families.heads import told_heads
from vitedge.checkpoints.families.processor import find_preprocessing
from vitedge.checkpoints.families.renaming import rename
from vitedge.errors import BadRecipe, UnknownArchitecture
from vitedge.records import ModelSpec, Origin, Preprocessing

NAME = "pit"
TITLE = "PiT"


@dataclass(frozen=True)
class _Published:
    """Facts about a published model that its weights do not tell."""

    heads: tuple[int, ...]
    depths: tuple[int, ...]
    name: str


PUBLISHED: dict[tuple[int, ...], _Published] = {
    (64, 128, 256): _Published((2, 4, 8), (2, 6, 4), "PiT-Ti"),
    (96, 192, 384): _Published((2, 4, 8), (2, 6, 4), "PiT-XS"),
    (144, 288, 576): _Published((3, 6, 12), (2, 6, 4), "PiT-S"),
    (256, 512, 1024): _Published((4, 8, 16), (3, 6, 4), "PiT-B"),
}
"""Widths of the stages to the published model with these."""

TABLE = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), interpolation="bicubic", crop=0.9)

_MLP_RATIO = 4.0
"""Of all published models."""
_HEAD_WIDTHS = (64, 48, 32, 24, 16, 12, 8, 6, 4, 2, 1)


def _convert_timm(state: State, hints: Hints) -> Converted:  # noqa: ARG001 - namings share one signature
    return Converted(dict(state))


def _convert_naver(state: State, hints: Hints) -> Converted:  # noqa: ARG001 - as above
    rules = (
        (r"pools\.(\d+)\.((conv|fc)\..+)", lambda found: f"transformers.{int(found[1]) + 1}.pool.{found[2]}"),
        (r"(transformers|patch_embed|norm|head|head_dist)\..+", r"\g<0>"),
        (r"pos_embed|cls_token", r"\g<0>"),
    )
    return rename(state, rules, {}, "naver-ai PiT")


_COMMON = (r"patch_embed\.conv\.weight", r"pos_embed", r"cls_token", r"transformers\.0\.blocks\.0\.attn\.qkv\.weight")

NAMINGS: tuple[Naming, ...] = (
    Naming("naver", (*_COMMON, r"pools\.0\.conv\.weight"), _convert_naver),
    Naming("timm", _COMMON, _convert_timm),
)


def infer(state: State, naming: str, hints: Hints) -> ModelSpec:
    """Infers widths, depths, tokens and grid from the shapes; heads and stride from the table, or assumes them.

    Args:
        state: weights in timm's names.
        naming: ``timm`` or ``naver``.
        hints: configuration, and the overrides ``heads`` and ``image_size``.

    Raises:
        UnknownArchitecture: stages with MLPs of different ratios, or an embedding that is no grid.
        WeightsMismatch: a weight without which nothing can be said is missing.
        BadRecipe: an override that does not fit the weights.
    """
    depths = _depths(state)
    widths = tuple(shape_of(state, f"transformers.{stage}.blocks.0.attn.qkv.weight")[1] for stage in range(len(depths)))
    _, in_channels, patch, _ = shape_of(state, "patch_embed.conv.weight")
    distilled = shape_of(state, "cls_token")[1] == 2
    classes = state["head.weight"].shape[0] if "head.weight" in state else 0
    ratios = _mlp_ratios(state, widths)
    heads, heads_origin, heads_notes = _heads(widths, depths, ratios, hints)
    image_size, stride, size_origins, size_notes = _geometry(state, patch, hints)
    preprocessing, origins, notes = find_preprocessing(hints, TABLE, in_channels)
    shapes = ("in_channels", "classes", "widths", "depths", "mlp_ratios", "patch", "tokens")
    labels = find_labels(hints, classes)
    return ModelSpec(
        family=NAME,
        variant=_variant(widths, depths, distilled=distilled),
        naming=naming,
        image_size=image_size,
        in_channels=in_channels,
        classes=classes,
        widths=widths,
        depths=depths,
        heads=heads,
        mlp_ratios=ratios,
        patch=patch,
        tokens=("class", "distillation") if distilled else ("class",),
        norm_eps=1e-6,
        activation="gelu",
        preprocessing=preprocessing,
        labels=labels,
        options={"stride": stride},
        origins={
            **dict.fromkeys(shapes, Origin.SHAPE),
            **dict.fromkeys(("norm_eps", "activation"), Origin.TABLE),
            **origins,
            **size_origins,
            **({"labels": Origin.CONFIG} if labels else {}),
            "heads": heads_origin,
        },
        notes=(*heads_notes, *size_notes, *notes),
    )


def _depths(state: State) -> tuple[int, ...]:
    found: dict[int, int] = {}
    for name in state:
        match = re.match(r"transformers\.(\d+)\.blocks\.(\d+)\.", name)
        if match:
            stage, block = int(match[1]), int(match[2])
            found[stage] = max(found.get(stage, 0), block + 1)
    return tuple(found.get(stage, 1) for stage in range(max(found, default=0) + 1))


def _mlp_ratios(state: State, widths: tuple[int, ...]) -> tuple[float, ...]:
    ratios = tuple(
        mlp_ratio(shape_of(state, f"transformers.{stage}.blocks.0.mlp.fc1.weight")[0], width)
        for stage, width in enumerate(widths)
    )
    hidden = [int(width * ratios[0]) for width in widths]
    if hidden != [int(width * ratio) for width, ratio in zip(widths, ratios, strict=True)]:
        raise UnknownArchitecture(f"PiT has one MLP ratio in all stages; this checkpoint has {_written(ratios)}.")
    return ratios


def _heads(
    widths: tuple[int, ...], depths: tuple[int, ...], ratios: tuple[float, ...], hints: Hints
) -> tuple[tuple[int, ...], Origin, tuple[str, ...]]:
    told = told_heads(hints, widths)
    if told is not None:
        return (*told, ())
    published = PUBLISHED.get(widths)
    if published is not None and depths == published.depths and set(ratios) == {_MLP_RATIO}:
        return published.heads, Origin.TABLE, ()
    fitting = [edge for edge in _HEAD_WIDTHS if all(width % edge == 0 for width in widths)]
    # Published models have at least two heads in the first stage, and one head width in all stages.
    edge = next((edge for edge in fitting if widths[0] // edge >= 2), fitting[0])
    heads = tuple(width // edge for width in widths)
    what = f"{_written(heads)} is assumed ({edge} channels each)"
    note = f"No file holds the number of heads; {what}; --set heads= corrects it."
    return heads, Origin.ASSUMED, (note,)


Geometry = tuple[tuple[int, int], int, dict[str, Origin], tuple[str, ...]]


def _geometry(state: State, patch: int, hints: Hints) -> Geometry:
    """Returns image size and stride, which together give the grid of the position embedding."""
    shape = shape_of(state, "pos_embed")
    if len(shape) != 4:
        raise UnknownArchitecture(f"PiT's position embedding is a grid (1, channels, height, width), not {shape}.")
    grid = (shape[2], shape[3])
    known = find_image_size(hints)
    if known is not None:
        size, origin = known
        told = hints.config.get("stride")
        strides = [told] if isinstance(told, int) and told > 0 else _strides(patch)
        stride = next((s for s in strides if grid_of(size, patch, s) == grid), None)
        # A size for the preprocessing alone would make up a stride; every architecture of timm has half a patch.
        usual = (patch // 2, *(() if "architecture" in hints.config else (patch,)))
        if stride is not None and (told or origin is Origin.GIVEN or stride in usual):
            return size, stride, {"image_size": origin, "options.stride": Origin.SHAPE}, ()
        if stride is not None:
            note = (
                f"The configuration's {size[0]}x{size[1]} pixels give the {grid[0]}x{grid[1]} positions only with a "
                f"stride of {stride}, which is assumed; --set image_size= corrects both."
            )
            return size, stride, {"image_size": origin, "options.stride": Origin.ASSUMED}, (note,)
        if origin is Origin.GIVEN:
            raise BadRecipe(
                f"Images of {size[0]}x{size[1]} pixels cannot give the position embedding's grid of "
                f"{grid[0]}x{grid[1]} with patches of {patch} pixels; give the image size of the training."
            )
    return _likely_geometry(grid, patch)


def _likely_geometry(grid: tuple[int, int], patch: int) -> Geometry:
    for stride in _strides(patch):
        rounded = tuple(_round_edge(edge, patch, stride) for edge in grid)
        if all(rounded):
            size = (rounded[0], rounded[1])
            break
    else:
        stride = max(1, patch // 2)
        size = ((grid[0] - 1) * stride + patch, (grid[1] - 1) * stride + patch)
    if size == (224, 224) and (patch, stride) in ((16, 8), (14, 7)):
        return size, stride, {"image_size": Origin.TABLE, "options.stride": Origin.TABLE}, ()
    note = (
        f"No file holds the stride of the patches; {stride} is assumed, and with it images of "
        f"{size[0]}x{size[1]} pixels; --set image_size= corrects both."
    )
    return size, stride, {"image_size": Origin.ASSUMED, "options.stride": Origin.ASSUMED}, (note,)


def grid_of(size: tuple[int, int], patch: int, stride: int) -> tuple[int, int]:
    """Returns rows and columns of patches in an image of this height and width."""
    return (size[0] - patch) // stride + 1, (size[1] - patch) // stride + 1


def _strides(patch: int) -> list[int]:
    """Returns strides to try: patches that overlap by half as in the paper, patches side by side, then the rest."""
    likely = [patch // 2] if patch % 2 == 0 else []
    rest = sorted(set(range(1, patch + 1)) - {*likely, patch}, key=lambda stride: abs(2 * stride - patch))
    return [*likely, patch, *rest]


def _round_edge(count: int, patch: int, stride: int) -> int:
    """Returns 224 or the smallest multiple of 32 among the edges that give ``count`` patches; 0 if there is none."""
    first = (count - 1) * stride + patch
    if 224 in range(first, first + stride):
        return 224
    return next((edge for edge in range(first, first + stride) if edge % 32 == 0), 0)


def _variant(widths: tuple[int, ...], depths: tuple[int, ...], *, distilled: bool) -> str:
    published = PUBLISHED.get(widths)
    suffix = " distilled" if distilled else ""
    if published is not None and published.depths == depths:
        return published.name + suffix
    return f"custom PiT (widths {_written(widths)}, depths {_written(depths)}){suffix}"


def _written(values: tuple[float, ...]) -> str:
    return "-".join(f"{value:g}" for value in values)
