# SPDX-License-Identifier: Apache-2.0
"""Hugging Face's names of MobileViT v1 and v2; transformers 5 keeps them in memory as on disk."""

from __future__ import annotations

import re

from vitedge.checkpoints.families.attention import join
from vitedge.checkpoints.families.family import Converted, Hints, State
from vitedge.checkpoints.families.renaming import Rule, rename, with_batch_counters
from vitedge.errors import WeightsMismatch

_DROPS = {r"segmentation_head\..+": "segmentation head"}
_RESIDUAL = {"expand_1x1": "conv1_1x1", "conv_3x3": "conv2_kxk", "reduce_1x1": "conv3_1x1"}
_WITHIN = {"conv_kxk": "conv_kxk", "conv_projection": "conv_proj", "fusion": "conv_fusion"}
_LAYER = {"convolution": "conv", "normalization": "bn"}

_PREFIX = r"(?:mobilevit\.|mobilevitv2\.)?"
_STAGE = rf"{_PREFIX}encoder\.layer\.(\d+)"
_END = r"\.(convolution|normalization)\.(\w+)"
_CONVOLUTIONS = r"\.(expand_1x1|conv_3x3|reduce_1x1)"


def _plain_residual(found: re.Match[str]) -> str:
    return f"stages.{found[1]}.{found[2]}.{_RESIDUAL[found[3]]}.{_LAYER[found[4]]}.{found[5]}"


def _first_residual(found: re.Match[str]) -> str:
    return f"stages.{found[1]}.0.{_RESIDUAL[found[2]]}.{_LAYER[found[3]]}.{found[4]}"


def _within(found: re.Match[str]) -> str:
    return f"stages.{found[1]}.1.{_WITHIN[found[2]]}.{_LAYER[found[3]]}.{found[4]}"


def _layer(name: str, part: str) -> Rule:
    """Returns the rule for the weight and bias of a part of a transformer layer."""
    return rf"{_STAGE}\.transformer\.layer\.(\d+)\.{name}\.(weight|bias)", rf"stages.\1.1.transformer.\2.{part}.\3"


_SHARED: tuple[Rule, ...] = (
    (rf"{_PREFIX}conv_stem{_END}", lambda found: f"stem.{_LAYER[found[1]]}.{found[2]}"),
    (rf"{_STAGE}\.layer\.(\d+){_CONVOLUTIONS}{_END}", _plain_residual),
    (rf"{_STAGE}\.downsampling_layer{_CONVOLUTIONS}{_END}", _first_residual),
    (rf"{_STAGE}\.(conv_kxk|conv_projection|fusion){_END}", _within),
    (rf"{_STAGE}\.conv_1x1\.convolution\.weight", r"stages.\1.1.conv_1x1.weight"),
    (rf"{_STAGE}\.layernorm\.(weight|bias)", r"stages.\1.1.norm.\2"),
    _layer("layernorm_before", "norm1"),
    _layer("layernorm_after", "norm2"),
    (r"classifier\.(weight|bias)", r"head.fc.\1"),
)

_V1: tuple[Rule, ...] = (
    *_SHARED,
    _layer(r"attention\.attention\.query", "attn.query"),
    _layer(r"attention\.attention\.key", "attn.key"),
    _layer(r"attention\.attention\.value", "attn.value"),
    _layer(r"attention\.output\.dense", "attn.proj"),
    _layer(r"intermediate\.dense", "mlp.fc1"),
    _layer(r"output\.dense", "mlp.fc2"),
    (rf"{_PREFIX}conv_1x1_exp{_END}", lambda found: f"final_conv.{_LAYER[found[1]]}.{found[2]}"),
)

_V2: tuple[Rule, ...] = (
    *_SHARED,
    _layer(r"attention\.qkv_proj\.convolution", "attn.qkv_proj"),
    _layer(r"attention\.out_proj\.convolution", "attn.out_proj"),
    _layer(r"ffn\.conv1\.convolution", "mlp.fc1"),
    _layer(r"ffn\.conv2\.convolution", "mlp.fc2"),
)


def convert_v1(state: State, hints: Hints) -> Converted:  # noqa: ARG001 - namings share one signature
    """Converts ``MobileViTForImageClassification``, ``MobileViTModel`` and a segmentation model's backbone."""
    converted = rename(state, _V1, _DROPS, "Hugging Face MobileViT")
    return Converted(with_batch_counters(_joined(converted.state)), converted.dropped)


def convert_v2(state: State, hints: Hints) -> Converted:  # noqa: ARG001 - as above
    """Converts ``MobileViTV2ForImageClassification``, ``MobileViTV2Model`` and a segmentation model's backbone."""
    converted = rename(state, _V2, _DROPS, "Hugging Face MobileViTv2")
    return Converted(with_batch_counters(converted.state), converted.dropped)


def _joined(state: State) -> State:
    """Joins query, key and value into one matrix, with zero biases for a model without (``qkv_bias``)."""
    joined = {name: tensor for name, tensor in state.items() if not re.search(r"\.attn\.(query|key|value)\.", name)}
    has_bias = any(re.search(r"\.attn\.(query|key|value)\.bias", name) for name in state)
    attentions = dict.fromkeys(
        name.split(".attn.")[0] for name in state if re.search(r"\.attn\.(query|key|value)\.", name)
    )
    for layer in attentions:
        for kind in ("weight", "bias") if has_bias else ("weight",):
            parts = [f"{layer}.attn.{part}.{kind}" for part in ("query", "key", "value")]
            missing = [name for name in parts if name not in state]
            if missing:
                raise WeightsMismatch(f"The Hugging Face MobileViT checkpoint lacks {', '.join(missing)}.")
            joined[f"{layer}.attn.qkv.{kind}"] = join(parts, [state[name] for name in parts])
        if not has_bias:
            weight = joined[f"{layer}.attn.qkv.weight"]
            joined[f"{layer}.attn.qkv.bias"] = weight.new_zeros(weight.shape[0])
    return joined
