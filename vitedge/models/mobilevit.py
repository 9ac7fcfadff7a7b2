# SPDX-License-Identifier: Apache-2.0
"""MobileViT v1 as timm's ByobNet, of any width, depth, number of stages and image size."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import torch
from timm.models.byobnet import ByoBlockCfg, ByobNet, ByoModelCfg
from torch import Tensor, nn

from vitedge.checkpoints.families.family import State
from vitedge.checkpoints.families.mobilevit.structure import size_notes, total_stride
from vitedge.models.blocks import set_widths
from vitedge.models.positions import check_multiple
from vitedge.records import ModelSpec, Origin


def build(spec: ModelSpec) -> nn.Module:
    """Builds the module of the spec; see `vitedge.models.family.Builder.build`."""
    fusion = spec.options["fusion"]
    return build_network(spec, "mobilevit", [{"num_heads": heads, "no_fusion": not fusion} for heads in spec.heads])


def build_network(spec: ModelSpec, block: str, extra: list[dict[str, Any]]) -> nn.Module:
    """Builds the network around either version's block.

    Args:
        spec: a model of either version.
        block: timm's name of the MobileViT block.
        extra: for each transformer, the settings of its block that only one version has.
    """
    options = spec.options
    config = ByoModelCfg(
        blocks=tuple(_stage(spec, stage, block, extra) for stage in range(len(options["channels"]))),
        stem_chs=options["stem"],
        stem_type="3x3",
        stem_pool="",
        downsample="",
        act_layer=spec.activation,
        num_features=options["features"],
    )
    with torch.device("meta"):  # no random initialization: it takes seconds and moves the global generator
        pool = spec.options.get("pool", "avg")
        network = ByobNet(config, num_classes=spec.classes, in_chans=spec.in_channels, global_pool=pool)
    for part in network.modules():
        if isinstance(part, (nn.LayerNorm, nn.GroupNorm)):
            part.eps = spec.norm_eps
    set_widths(network, spec)
    return cast("nn.Module", network.to_empty(device=torch.get_default_device()).eval())


def _stage(spec: ModelSpec, stage: int, block: str, extra: list[dict[str, Any]]) -> tuple[ByoBlockCfg, ...]:
    options = spec.options
    channels = options["channels"][stage]
    incoming = options["channels"][stage - 1] if stage else options["stem"]
    blocks = []
    for index, inner in enumerate(options["expansions"][stage]):
        settings: dict[str, Any] = {"bottle_in": True, "linear_out": True}
        if index == 0 and options["dilations"][stage] > 1:
            settings["dilation"] = (options["dilations"][stage],) * 2
        ratio = inner / (channels if index else incoming)
        stride = 1 if index else options["strides"][stage]
        blocks.append(ByoBlockCfg(type="bottle", d=1, c=channels, s=stride, gs=1, br=ratio, block_kwargs=settings))
    if stage in options["transformers"]:
        index = list(options["transformers"]).index(stage)
        settings = {
            "transformer_dim": spec.widths[index],
            "transformer_depth": spec.depths[index],
            "mlp_ratio": spec.mlp_ratios[index],
            "patch_size": spec.patch,
            "kernel_size": options["kernel"],
            **extra[index],
        }
        group = 1 if block == "mobilevit2" else None  # v2's first convolution is depthwise, v1's is not
        blocks.append(ByoBlockCfg(type=block, d=1, c=channels, s=1, gs=group, block_kwargs=settings))
    return tuple(blocks)


def resize(state: State, spec: ModelSpec, image_size: tuple[int, int]) -> tuple[State, ModelSpec]:
    """Returns the same weights at another image size, on which only the division into patches depends.

    A block whose map does not divide into patches resizes it, and its export writes that as products of matrices.

    Raises:
        ImpossibleSize: not a multiple of the total stride; names the nearest sizes that work.
    """
    check_multiple(image_size, total_stride(spec.options), "total stride")
    notes = tuple(note for note in spec.notes if "image_size" not in note and "--image-size" not in note)
    resized = replace(spec, image_size=image_size, origins={**spec.origins, "image_size": Origin.GIVEN}, notes=notes)
    return dict(state), replace(resized, notes=(*notes, *size_notes(resized)))


def features(module: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the map ``(batch, channels, height, width)`` after the final convolution, and its pooled positions."""
    network = cast("ByobNet", module)
    final = network.forward_features(images)
    return final, final.mean(dim=(2, 3)) if network.global_pool == "avg" else network.forward_head(
        final, pre_logits=True
    )


def blocks(spec: ModelSpec) -> tuple[str, ...]:
    """Returns the names of the stem, each inverted residual and MobileViT block, and the final convolution."""
    names = ["stem"]
    for stage, expansions in enumerate(spec.options["expansions"]):
        count = len(expansions) + (stage in spec.options["transformers"])
        names += [f"stages.{stage}.{block}" for block in range(count)]
    return (*names, "final_conv") if spec.options["features"] else tuple(names)
