# SPDX-License-Identifier: Apache-2.0
"""ViT and its kin (DeiT, DeiT-III, MAE, HPM, DINO, DINOv2, hybrids): timm's VisionTransformer with a spec's settings.

``OPTIONS`` lists what `ModelSpec.options` may hold for this family.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from typing import Any, cast

import torch
from timm.layers.hybrid_embed import HybridEmbed
from timm.layers.mlp import SwiGLUPacked
from timm.layers.padding import pad_same
from timm.models.deit import VisionTransformerDistilled
from timm.models.resnetv2 import ResNetV2, create_resnetv2_stem
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from vitedge.checkpoints.families.family import State
from vitedge.models.activations import ACTIVATIONS
from vitedge.models.blocks import set_widths
from vitedge.models.merging import MergingBlocks
from vitedge.models.positions import Resampling, check_multiple, resize_tokens
from vitedge.records import ModelSpec, Origin

OPTIONS: Mapping[str, Any] = {
    "qkv_bias": True,
    "qk_norm": False,
    "layer_scale": False,
    "pre_norm": False,  # a norm before the first block, and no bias in the patch embedding (CLIP)
    "final_norm": "tokens",  # "tokens", "pooled" (fc_norm, after pooling) or "none"
    # "class", "mean" or "max" of the patches, "avgmax" (half the sum of these two), or "class+mean" (class and mean
    # joined; DINOv2's classifier), or "map" (attention of one learned query to the patches; SigLIP)
    "pool": "class",
    "pool_prefix": False,  # a pooling of patches takes the prefix tokens in, too
    "norm_first": True,  # or after attention and MLP, and after adding their inputs (PyTorch's nn.TransformerEncoder)
    "position_prefix": True,  # the position embedding has entries for prefix tokens, too
    "registers": 0,
    "mlp": "plain",  # or "swiglu": fc1 computes gate and value at once
    "pre_logits": 0,  # width of the layer with tanh before the head; 0: there is none
    "distillation_head": False,  # the distillation token has a head of its own; the logits are the mean of both
    "stem": "",  # or "resnet"
    "stem_depths": (),  # blocks per stage of the ResNet; none: its root only
    "stem_patch": 1,  # edge of a patch on the ResNet's map
}
"""Keys that a ViT's ``options`` may hold, to the values that a missing key stands for."""

_POOLS = {"class": "token", "mean": "avg", "max": "max", "avgmax": "avgmax", "class+mean": "token", "map": "map"}


# The subclasses below keep timm's signature of forward_head, a boolean argument included.


class RepresentationTransformer(VisionTransformer):
    """A ViT with a linear layer and tanh between pooled features and head (ViT paper, section 3.1)."""

    def __init__(self, representation: int, classes: int, **settings: Any) -> None:
        super().__init__(num_classes=0, **settings)
        linear = nn.Linear(self.embed_dim, representation)
        self.pre_logits = nn.Sequential(OrderedDict(fc=linear, act=nn.Tanh()))
        self.head = nn.Linear(representation, classes) if classes else nn.Identity()
        self.num_classes = classes

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:  # noqa: FBT001, FBT002
        """Applies pooling, the representation layer and, unless ``pre_logits``, the head."""
        x = self.pre_logits(self.fc_norm(self.pool(x)))
        logits: Tensor = x if pre_logits else self.head(x)
        return logits


class ClassAndMeanTransformer(VisionTransformer):
    """A ViT whose head takes the class token joined with the mean of the patches, as DINOv2's classifier does."""

    pools_patches = True
    """For `vitedge.models.merging.stages`, because ``global_pool`` says ``token``."""

    def __init__(self, classes: int, **settings: Any) -> None:
        super().__init__(num_classes=0, **settings)
        self.head = nn.Linear(2 * self.embed_dim, classes) if classes else nn.Identity()
        self.num_classes = classes

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:  # noqa: FBT001, FBT002
        """Applies both poolings and, unless ``pre_logits``, the head."""
        x = torch.cat([x[:, 0], x[:, self.num_prefix_tokens :].mean(dim=1)], dim=1)
        logits: Tensor = x if pre_logits else self.head(x)
        return logits


class DistillationTokenTransformer(VisionTransformerDistilled):
    """A distilled DeiT with a distillation token but no head for it: only the class token is classified."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)  # type: ignore[no-untyped-call]
        self.head_dist = nn.Identity()

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:  # noqa: FBT001, FBT002
        """Takes the class token and, unless ``pre_logits``, applies the head."""
        logits: Tensor = x[:, 0] if pre_logits else self.head(x[:, 0])
        return logits


class PostNormBlock(Block):
    """A block whose norms follow the sums, as in "Attention Is All You Need" (arXiv 1706.03762)."""

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:  # noqa: FBT001, FBT002
        """Maps tokens ``(batch, tokens, width)`` to tokens of the same shape."""
        x = self.norm1(x + self.attn(x, attn_mask=attn_mask, is_causal=is_causal))
        tokens: Tensor = self.norm2(x + self.mlp(x))
        return tokens


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's SAME padding, whose weight the converter has standardized already."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, **settings: Any) -> None:
        settings["padding"] = 0
        super().__init__(in_channels, out_channels, kernel_size, **{"bias": False, **settings})

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(batch, channels, height, width)`` to ``(batch, out_channels, ceil(height / stride), …)``."""
        return super().forward(pad_same(x, list(self.kernel_size), list(self.stride), list(self.dilation)))


def options_of(spec: ModelSpec) -> dict[str, Any]:
    """Returns the spec's options, with the defaults for missing ones.

    Raises:
        ValueError: an option that the family does not have.
    """
    unknown = sorted(set(spec.options) - set(OPTIONS))
    if unknown:
        raise ValueError(f"a ViT has no option {', '.join(unknown)}; it has {', '.join(sorted(OPTIONS))}")
    return {**OPTIONS, **spec.options}


def build(spec: ModelSpec) -> nn.Module:
    """Builds the timm module of a ViT's spec. See `vitedge.models.family.Builder.build`."""
    options = options_of(spec)
    settings = _settings(spec, options)
    module: nn.Module
    if "distillation" in spec.tokens and options["distillation_head"]:
        module = VisionTransformerDistilled(num_classes=spec.classes, **settings)  # type: ignore[no-untyped-call]
    elif "distillation" in spec.tokens:
        module = DistillationTokenTransformer(num_classes=spec.classes, **settings)
    elif options["pre_logits"]:
        module = RepresentationTransformer(options["pre_logits"], spec.classes, **settings)
    elif options["pool"] == "class+mean":
        module = ClassAndMeanTransformer(spec.classes, **settings)
    else:
        module = VisionTransformer(num_classes=spec.classes, **settings)
    return set_widths(module, spec).eval()


def _settings(spec: ModelSpec, options: Mapping[str, Any]) -> dict[str, Any]:
    width = spec.widths[0]
    settings: dict[str, Any] = {
        "img_size": spec.image_size,
        "patch_size": spec.patch,
        "in_chans": spec.in_channels,
        "embed_dim": width,
        "depth": spec.depths[0],
        "num_heads": spec.heads[0],
        # timm rounds width * ratio down; half a channel more keeps the product from falling below the whole number.
        "mlp_ratio": (round(width * spec.mlp_ratios[0]) + 0.5) / width,
        "qkv_bias": options["qkv_bias"],
        "qk_norm": options["qk_norm"],
        "init_values": 1.0 if options["layer_scale"] else None,
        "class_token": "class" in spec.tokens,
        "no_embed_class": not options["position_prefix"],
        "reg_tokens": options["registers"],
        "pre_norm": options["pre_norm"],
        "final_norm": options["final_norm"] != "none",
        "fc_norm": options["final_norm"] == "pooled",
        "global_pool": _POOLS[options["pool"]],
        "pool_include_prefix": options["pool_prefix"],
        "norm_layer": partial(nn.LayerNorm, eps=spec.norm_eps),
        "act_layer": ACTIVATIONS[spec.activation],
        "weight_init": "skip",
    }
    if not options["norm_first"]:
        settings["block_fn"] = PostNormBlock
    if options["mlp"] == "swiglu":
        settings["mlp_layer"] = SwiGLUPacked
    if options["stem"]:
        settings["patch_size"] = options["stem_patch"]
        settings["embed_layer"] = partial(HybridEmbed, backbone=_stem(spec.in_channels, options["stem_depths"]))
    return settings


def _stem(in_channels: int, depths: tuple[int, ...] | list[int]) -> nn.Module:
    if not depths:
        stem: nn.Module = create_resnetv2_stem(in_channels, stem_type="same", preact=False, conv_layer=SameConv2d)
        return stem
    resnet: nn.Module = ResNetV2(
        layers=list(depths),
        num_classes=0,
        global_pool="",
        in_chans=in_channels,
        preact=False,
        stem_type="same",
        conv_layer=SameConv2d,
    )
    return resnet


def resize(state: State, spec: ModelSpec, image_size: tuple[int, int]) -> tuple[State, ModelSpec]:
    """Interpolates the position embedding to another grid. See `vitedge.models.family.Builder.resize`."""
    check_multiple(image_size, spec.patch, "patch")
    options = options_of(spec)
    prefix = ("class" in spec.tokens) + ("distillation" in spec.tokens) + options["registers"]
    old, new = ((size[0] // spec.patch, size[1] // spec.patch) for size in (spec.image_size, image_size))
    kept = prefix if options["position_prefix"] else 0
    positions = resize_tokens(state["pos_embed"], old, new, kept, _resampling(spec))
    origins = {**spec.origins, "image_size": Origin.GIVEN}
    return {**state, "pos_embed": positions}, dataclasses.replace(spec, image_size=image_size, origins=origins)


def _resampling(spec: ModelSpec) -> Resampling:
    """Returns how the model's own library resamples its position embedding."""
    if not spec.variant.startswith(("DINOv2", "custom DINOv2")) or options_of(spec)["registers"]:
        return Resampling.ANTIALIASED
    own = {"dinov2": Resampling.OFFSET, "huggingface": Resampling.PLAIN}
    return own.get(spec.naming, Resampling.ANTIALIASED)


def features(module: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Returns tokens ``(batch, tokens, width)``, prefix first, and pooled features. See `Builder.features`.

    Where the final norm follows the pooling (``fc_norm``), the tokens are those of the last block. Where tokens
    merged, every one has the value of the token that it is part of.
    """
    model = cast("VisionTransformer", module)
    if isinstance(model.blocks, MergingBlocks) and not model.blocks.restores:
        embedded = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(images))))
        merged, matches = model.blocks.merge(embedded)
        tokens = model.blocks.restore(model.norm(merged), matches)
    else:
        tokens = model.forward_features(images)
    return tokens, model.forward_head(tokens, pre_logits=True)


def blocks(spec: ModelSpec) -> tuple[str, ...]:
    """Returns the names of patch embedding, blocks and final norm. See `vitedge.models.family.Builder.blocks`."""
    last = ("norm",) if options_of(spec)["final_norm"] == "tokens" else ()
    return ("patch_embed", *(f"blocks.{index}" for index in range(spec.depths[0])), *last)
