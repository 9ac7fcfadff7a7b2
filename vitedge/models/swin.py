# SPDX-License-Identifier: Apache-2.0
"""Building Swin Transformer v1, and moving it to another image size.

Entries of `ModelSpec.options`:

- ``window``: edge in patches of every stage's attention window. A stage whose map is smaller attends over its whole
  map, unshifted.
- ``qkv_bias``: whether the query, key and value projections have a bias.
- ``merge_norm_eps``: eps of the norms of the patch embedding and of the patch merging, where it is not ``norm_eps``.
- ``pad_first``: whether a map that does not divide into windows is padded before it is shifted, as Hugging Face and
  Microsoft's detection models do, and not after, as timm does.
- ``pool``: ``max`` or ``avgmax`` (half the sum of both) of the positions, where it is not the mean.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from timm.layers.mlp import Mlp
from timm.models.swin_transformer import SwinTransformer, SwinTransformerBlock
from torch import Tensor, nn
from torch.nn import functional

from vitedge.checkpoints.families.family import State
from vitedge.errors import ImpossibleSize
from vitedge.models.activations import ACTIVATIONS
from vitedge.models.blocks import set_widths
from vitedge.models.positions import check_multiple
from vitedge.models.relative_positions import resample_biases
from vitedge.records import ModelSpec, Origin

TABLE = "attn.relative_position_bias_table"


def build(spec: ModelSpec) -> nn.Module:
    """Builds the timm module of the spec; see `vitedge.models.family.Builder`."""
    # In a dictionary, because timm takes an entry per stage where its annotations promise only one.
    settings: dict[str, Any] = {
        "img_size": spec.image_size,
        "patch_size": spec.patch,
        "in_chans": spec.in_channels,
        "num_classes": spec.classes,
        "embed_dim": spec.widths[0],
        "depths": tuple(spec.depths),
        "num_heads": tuple(spec.heads),
        # Pairs, because timm takes two bare numbers for the height and width of all stages.
        "window_size": tuple((window, window) for window in spec.options["window"]),
        "mlp_ratio": tuple(spec.mlp_ratios),
        "qkv_bias": spec.options["qkv_bias"],
        "global_pool": spec.options.get("pool", "avg"),
        "drop_path_rate": 0.0,
        "norm_layer": partial(nn.LayerNorm, eps=spec.norm_eps),
    }
    module = SwinTransformer(**settings)
    for part in module.modules():
        if isinstance(part, Mlp):
            part.act = ACTIVATIONS[spec.activation]()
    _set_merge_norms(module, spec.options.get("merge_norm_eps", spec.norm_eps))
    if spec.options.get("pad_first", False):
        _pad_first(module)
    return set_widths(module, spec).eval()


def resize(state: State, spec: ModelSpec, image_size: tuple[int, int]) -> tuple[State, ModelSpec]:
    """Returns weights and spec at another image size, in pixels (height, width).

    The windows stay; only where a stage's map gets smaller than its window, the window shrinks to the map, and the
    relative position biases are resampled as timm does it. timm pads maps that do not divide into windows.

    Raises:
        ImpossibleSize: not a multiple of the patch, or so small that nothing is left for the last stage.
    """
    check_multiple(image_size, spec.patch, "patch")
    smallest = spec.patch * 2 ** (len(spec.depths) - 1)
    if min(image_size) < smallest:
        raise ImpossibleSize(
            f"{image_size[0]}x{image_size[1]} pixels leave no map for the {len(spec.depths)} stages of this Swin; "
            f"multiples of {spec.patch} from {smallest} up work (--image-size)."
        )
    resized = replace(spec, image_size=image_size, origins={**spec.origins, "image_size": Origin.GIVEN})
    converted = dict(state)
    for stage, (old, new) in enumerate(zip(windows(spec), windows(resized), strict=True)):
        if old == new:
            continue
        for block in range(spec.depths[stage]):
            name = f"layers.{stage}.blocks.{block}.{TABLE}"
            converted[name] = resample_biases(state[name], old, new)
    return converted, resized


def features(module: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the map ``(batch, channels, height, width)`` after the final norm, and its pooled positions."""
    last = module.forward_features(images)  # type: ignore[operator]
    return last.permute(0, 3, 1, 2), module.forward_head(last, pre_logits=True)  # type: ignore[operator]


def blocks(spec: ModelSpec) -> tuple[str, ...]:
    """Returns the names of patch embedding, mergings, blocks and final norm; their outputs are channels-last."""
    names = ["patch_embed"]
    for stage, depth in enumerate(spec.depths):
        names += [f"layers.{stage}.downsample"] * (stage > 0)
        names += [f"layers.{stage}.blocks.{block}" for block in range(depth)]
    return (*names, "norm")


def windows(spec: ModelSpec) -> tuple[tuple[int, int], ...]:
    """Returns height and width in patches of each stage's attention window at the spec's image size."""
    maps = stage_maps(spec.image_size, spec.patch, len(spec.depths))
    return tuple(
        (min(window, height), min(window, width))
        for window, (height, width) in zip(spec.options["window"], maps, strict=True)
    )


def stage_maps(image_size: tuple[int, int], patch: int, stages: int) -> tuple[tuple[int, int], ...]:
    """Returns height and width of every stage's map; merging rounds odd edges up."""
    grid = (image_size[0] // patch, image_size[1] // patch)
    return tuple((-(-grid[0] // 2**stage), -(-grid[1] // 2**stage)) for stage in range(stages))


class PadFirstBlock(SwinTransformerBlock):
    """timm's block, changed to pad a map before shifting it: timm shifts first."""

    def _attn(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        below, right = -height % self.window_size[0], -width % self.window_size[1]
        attended: Tensor = super()._attn(functional.pad(x, (0, 0, 0, right, 0, below)))  # type: ignore[no-untyped-call]
        return attended[:, :height, :width]


def _pad_first(module: nn.Module) -> None:
    for part in module.modules():
        if not isinstance(part, SwinTransformerBlock):
            continue
        height, width = part.input_resolution  # type: ignore[misc]
        padding = height % part.window_size[0] or width % part.window_size[1]
        if padding and any(part.shift_size):  # without either, the order does not matter
            part.__class__ = PadFirstBlock


def _set_merge_norms(module: nn.Module, eps: float) -> None:
    for name, part in module.named_modules():
        if isinstance(part, nn.LayerNorm) and name.endswith(("patch_embed.norm", "downsample.norm")):
            part.eps = eps
