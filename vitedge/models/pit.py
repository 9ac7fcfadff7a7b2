# SPDX-License-Identifier: Apache-2.0
"""PiT as timm's PoolingVisionTransformer, of any width, depth, number of stages and image size."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch
from timm.layers.mlp import Mlp
from timm.models.pit import PoolingVisionTransformer
from torch import Tensor, nn

from vitedge.checkpoints.families.family import State
from vitedge.checkpoints.families.pit import grid_of
from vitedge.errors import ImpossibleSize
from vitedge.models.activations import ACTIVATIONS
from vitedge.models.blocks import set_widths
from vitedge.models.positions import resize_grid
from vitedge.records import ModelSpec, Origin


def build(spec: ModelSpec) -> nn.Module:
    """Builds the module of the spec; see `vitedge.models.family.Builder.build`."""
    with torch.device("meta"):  # no random initialization: it takes seconds and moves the global generator
        module = PoolingVisionTransformer(
            img_size=spec.image_size,  # type: ignore[arg-type]  # it takes a pair as well
            patch_size=spec.patch,
            stride=spec.options["stride"],
            base_dims=[width // heads for width, heads in zip(spec.widths, spec.heads, strict=True)],
            depth=list(spec.depths),
            heads=list(spec.heads),
            mlp_ratio=spec.mlp_ratios[0],
            num_classes=spec.classes,
            in_chans=spec.in_channels,
            distilled="distillation" in spec.tokens,
        )
    for part in module.modules():
        if isinstance(part, nn.LayerNorm):
            part.eps = spec.norm_eps
    if spec.activation != "gelu":
        for part in list(module.modules()):
            if isinstance(part, Mlp):
                part.act = ACTIVATIONS[spec.activation]()
    built = cast("nn.Module", module.to_empty(device=torch.get_default_device()))
    return set_widths(built, spec).eval()


def resize(state: State, spec: ModelSpec, image_size: tuple[int, int]) -> tuple[State, ModelSpec]:
    """Returns the same model at another image size, its 4-D position embedding resampled to the new grid of patches.

    Every size from one patch up works: a pooling layer halves any grid, rounding up. Rows and columns of pixels that
    no patch reaches are named in the notes.

    Raises:
        ImpossibleSize: an image smaller than a patch.
    """
    stride = spec.options["stride"]
    if min(image_size) < spec.patch:
        raise ImpossibleSize(
            f"An image of {image_size[0]}x{image_size[1]} pixels is smaller than a patch of {spec.variant}; "
            f"--image-size works from {spec.patch} up."
        )
    grid = grid_of(image_size, spec.patch, stride)
    unseen = max((edge - spec.patch) % stride for edge in image_size)
    notes = spec.notes
    if unseen:
        notes += (f"At {image_size[0]}x{image_size[1]} the last {unseen} pixels lie in no patch.",)
    resized = {**state, "pos_embed": resize_grid(state["pos_embed"], grid)}
    origins = {**spec.origins, "image_size": Origin.GIVEN}
    return resized, replace(spec, image_size=image_size, origins=origins, notes=notes)


def features(module: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the last map ``(batch, channels, height, width)`` and the normalized class token ``(batch, width)``.

    For a distilled model the pooled features are the mean of its class and distillation tokens, as in timm.
    """
    model = cast("PoolingVisionTransformer", module)
    embedded = model.patch_embed(images) + model.pos_embed
    tokens = model.cls_token.expand(images.shape[0], -1, -1)
    final, tokens = model.transformers((embedded, tokens))
    return final, model.norm(tokens).mean(dim=1)


def blocks(spec: ModelSpec) -> tuple[str, ...]:
    """Returns the names of the patch embedding, each pooling's convolution, each block, and the class tokens' norm.

    The stages themselves return a map with its tokens, so the modules inside of them are compared.
    """
    names = ["patch_embed"]
    for stage, depth in enumerate(spec.depths):
        names += [f"transformers.{stage}.pool.conv"] if stage else []
        names += [f"transformers.{stage}.blocks.{block}" for block in range(depth)]
    return (*names, "norm")
