# SPDX-License-Identifier: Apache-2.0
"""Apple's ml-cvnets names of MobileViT v1 and v2, the library both were published in."""

from __future__ import annotations

import re
from collections.abc import Callable

from vitedge.checkpoints.families.family import Converted, Hints, State
from vitedge.checkpoints.families.renaming import Rule, rename, with_batch_counters

_DROPS = {
    r"(seg_head|aux_head)\..+": "segmentation head",
    r".+\.unfolding_weights": "constant of the Core ML mode, not a weight",
}
_RESIDUAL = {"exp_1x1": "conv1_1x1", "conv_3x3": "conv2_kxk", "red_1x1": "conv3_1x1"}
_LAYER = {"conv": "conv", "norm": "bn"}

_BLOCK = r"layer_(\d+)\.(\d+)"
_END = r"\.block\.(conv|norm)\.(\w+)"


def _block(found: re.Match[str]) -> str:
    """Returns stage and block in timm's names; cvnets counts its layers from one, after the stem."""
    return f"stages.{int(found[1]) - 1}.{found[2]}"


def _residual(found: re.Match[str]) -> str:
    return f"{_block(found)}.{_RESIDUAL[found[3]]}.{_LAYER[found[4]]}.{found[5]}"


def _within(name: str) -> Callable[[re.Match[str]], str]:
    """Returns the replacement for a convolution with its norm directly below a MobileViT block."""
    return lambda found: f"{_block(found)}.{name}.{_LAYER[found[3]]}.{found[4]}"


def _layer(name: str, part: str) -> Rule:
    """Returns the rule for the weight and bias of a part of transformer layer ``global_rep.N``."""
    pattern = rf"{_BLOCK}\.global_rep\.(\d+)\.{name}\.(weight|bias)"
    return pattern, lambda found: f"{_block(found)}.transformer.{found[3]}.{part}.{found[4]}"


_SHARED: tuple[Rule, ...] = (
    (rf"conv_1{_END}", lambda found: f"stem.{_LAYER[found[1]]}.{found[2]}"),
    (rf"{_BLOCK}\.block\.(exp_1x1|conv_3x3|red_1x1){_END}", _residual),
    (rf"{_BLOCK}\.global_rep\.\d+\.(weight|bias)", lambda found: f"{_block(found)}.norm.{found[3]}"),
    (rf"{_BLOCK}\.conv_proj{_END}", _within("conv_proj")),
)

_V1: tuple[Rule, ...] = (
    *_SHARED,
    (rf"{_BLOCK}\.local_rep\.conv_3x3{_END}", _within("conv_kxk")),
    (rf"{_BLOCK}\.local_rep\.conv_1x1\.block\.conv\.weight", lambda found: f"{_block(found)}.conv_1x1.weight"),
    (rf"{_BLOCK}\.fusion{_END}", _within("conv_fusion")),
    _layer(r"pre_norm_mha\.0", "norm1"),
    _layer(r"pre_norm_mha\.1\.qkv_proj", "attn.qkv"),
    _layer(r"pre_norm_mha\.1\.out_proj", "attn.proj"),
    _layer(r"pre_norm_ffn\.0", "norm2"),
    _layer(r"pre_norm_ffn\.1", "mlp.fc1"),
    _layer(r"pre_norm_ffn\.4", "mlp.fc2"),
    (rf"conv_1x1_exp{_END}", lambda found: f"final_conv.{_LAYER[found[1]]}.{found[2]}"),
    (r"classifier\.fc\.(weight|bias)", r"head.fc.\1"),
)

_V2: tuple[Rule, ...] = (
    *_SHARED,
    (rf"{_BLOCK}\.local_rep\.0{_END}", _within("conv_kxk")),
    (rf"{_BLOCK}\.local_rep\.1\.block\.conv\.weight", lambda found: f"{_block(found)}.conv_1x1.weight"),
    _layer(r"pre_norm_attn\.0", "norm1"),
    _layer(r"pre_norm_attn\.1\.qkv_proj\.block\.conv", "attn.qkv_proj"),
    _layer(r"pre_norm_attn\.1\.out_proj\.block\.conv", "attn.out_proj"),
    _layer(r"pre_norm_ffn\.0", "norm2"),
    _layer(r"pre_norm_ffn\.1\.block\.conv", "mlp.fc1"),
    _layer(r"pre_norm_ffn\.3\.block\.conv", "mlp.fc2"),
    (r"classifier\.1\.(weight|bias)", r"head.fc.\1"),
)


def convert_v1(state: State, hints: Hints) -> Converted:  # noqa: ARG001 - namings share one signature
    """Converts MobileViT v1 from cvnets 0.1 and later."""
    converted = rename(state, _V1, _DROPS, "ml-cvnets MobileViT")
    return Converted(with_batch_counters(converted.state), converted.dropped)


def convert_v2(state: State, hints: Hints) -> Converted:  # noqa: ARG001 - as above
    """Converts MobileViT v2 from cvnets 0.2 and later."""
    converted = rename(state, _V2, _DROPS, "ml-cvnets MobileViTv2")
    return Converted(with_batch_counters(converted.state), converted.dropped)
