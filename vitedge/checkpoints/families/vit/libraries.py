# SPDX-License-Identifier: Apache-2.0
"""ViTs of torchvision and mmpretrain, and visual towers of CLIP (OpenAI, open_clip, transformers), in timm's names.

A visual tower's projection becomes the head: its outputs are the image's embedding, before any normalization.
"""

from __future__ import annotations

import re

import torch

from vitedge.checkpoints.families.attention import join_projections
from vitedge.checkpoints.families.family import Converted, Hints, State
from vitedge.checkpoints.families.renaming import Rule, rename

_KIND = r"\.(weight|bias)"
_TEXT = "the text tower and its temperature do not see the image"
_POSITION_IDS = "position numbers, which are counted anew"

_TORCHVISION_BLOCK = r"encoder\.layers\.encoder_layer_(\d+)\."
_TORCHVISION: tuple[Rule, ...] = (
    ("class_token", "cls_token"),
    (r"encoder\.pos_embedding", "pos_embed"),
    ("conv_proj" + _KIND, r"patch_embed.proj.\1"),
    (_TORCHVISION_BLOCK + r"ln_([12])" + _KIND, r"blocks.\1.norm\2.\3"),
    (_TORCHVISION_BLOCK + r"self_attention\.in_proj_(weight|bias)", r"blocks.\1.attn.qkv.\2"),
    (_TORCHVISION_BLOCK + r"self_attention\.out_proj" + _KIND, r"blocks.\1.attn.proj.\2"),
    (_TORCHVISION_BLOCK + r"mlp\.(?:0|linear_1)" + _KIND, r"blocks.\1.mlp.fc1.\2"),
    (_TORCHVISION_BLOCK + r"mlp\.(?:3|linear_2)" + _KIND, r"blocks.\1.mlp.fc2.\2"),
    (r"encoder\.ln" + _KIND, r"norm.\1"),
    (r"heads\.head" + _KIND, r"head.\1"),
    (r"heads\.pre_logits" + _KIND, r"pre_logits.fc.\1"),
)

_MM_BLOCK = r"(?:backbone\.)?layers\.(\d+)\."
_MMPRETRAIN: tuple[Rule, ...] = (
    (r"(?:backbone\.)?(cls_token|dist_token|pos_embed)", r"\1"),
    (r"(?:backbone\.)?patch_embed\.projection" + _KIND, r"patch_embed.proj.\1"),
    (_MM_BLOCK + r"ln([12])" + _KIND, r"blocks.\1.norm\2.\3"),
    (_MM_BLOCK + r"attn\.(qkv|proj)" + _KIND, r"blocks.\1.attn.\2.\3"),
    (_MM_BLOCK + r"ffn\.layers\.0\.0" + _KIND, r"blocks.\1.mlp.fc1.\2"),
    (_MM_BLOCK + r"ffn\.layers\.1" + _KIND, r"blocks.\1.mlp.fc2.\2"),
    (r"(?:backbone\.)?ln1" + _KIND, r"norm.\1"),
    (r"(?:backbone\.)?ln2" + _KIND, r"fc_norm.\1"),  # of out_type="avg_featmap" alone: after the mean of the patches
    (r"head\.layers\.(head|head_dist)" + _KIND, r"\1.\2"),
    (r"head\.layers\.pre_logits" + _KIND, r"pre_logits.fc.\1"),
)

_CLIP_BLOCK = r"(?:visual\.)?transformer\.resblocks\.(\d+)\."
_CLIP: tuple[Rule, ...] = (
    (r"(?:visual\.)?class_embedding", "cls_token"),
    (r"(?:visual\.)?positional_embedding", "pos_embed"),
    (r"(?:visual\.)?proj", "head.weight"),
    (r"(?:visual\.)?conv1\.weight", "patch_embed.proj.weight"),
    (r"(?:visual\.)?ln_pre" + _KIND, r"norm_pre.\1"),
    (_CLIP_BLOCK + r"ln_([12])" + _KIND, r"blocks.\1.norm\2.\3"),
    (_CLIP_BLOCK + r"attn\.in_proj_(weight|bias)", r"blocks.\1.attn.qkv.\2"),
    (_CLIP_BLOCK + r"attn\.out_proj" + _KIND, r"blocks.\1.attn.proj.\2"),
    (_CLIP_BLOCK + r"mlp\.c_fc" + _KIND, r"blocks.\1.mlp.fc1.\2"),
    (_CLIP_BLOCK + r"mlp\.c_proj" + _KIND, r"blocks.\1.mlp.fc2.\2"),
    (_CLIP_BLOCK + r"ls_([12])\.gamma", r"blocks.\1.ls\2.gamma"),
    (r"(?:visual\.)?ln_post" + _KIND, r"norm.\1"),
)
_CLIP_TEXT = (
    r"(transformer|text)\..*|token_embedding\.weight|positional_embedding|ln_final\..*|text_projection(\..*)?"
    r"|logit_(scale|bias)|attn_mask|input_resolution|context_length|vocab_size"
)
_OPENAI = ("input_resolution", "context_length", "vocab_size")
"""Entries that OpenAI's archives alone have beside the weights."""

_HF_MODEL = r"(?:vision_model\.)?"
_HF_BLOCK = _HF_MODEL + r"encoder\.layers\.(\d+)\."
_HUGGING_FACE: tuple[Rule, ...] = (
    (_HF_MODEL + r"embeddings\.class_embedding", "cls_token"),
    (_HF_MODEL + r"embeddings\.patch_embedding\.weight", "patch_embed.proj.weight"),
    (_HF_MODEL + r"embeddings\.position_embedding\.weight", "pos_embed"),
    (_HF_MODEL + r"pre_layrnorm" + _KIND, r"norm_pre.\1"),
    (_HF_MODEL + r"post_layernorm" + _KIND, r"norm.\1"),
    (_HF_BLOCK + r"layer_norm([12])" + _KIND, r"blocks.\1.norm\2.\3"),
    (_HF_BLOCK + r"self_attn\.([qkv])_proj" + _KIND, r"blocks.\1.attn.\2.\3"),
    (_HF_BLOCK + r"self_attn\.out_proj" + _KIND, r"blocks.\1.attn.proj.\2"),
    (_HF_BLOCK + r"mlp\.fc([12])" + _KIND, r"blocks.\1.mlp.fc\2.\3"),
    (r"visual_projection\.weight", "head.weight"),
)
_HF_DROPS = {
    r"text_model\..*|text_projection\..*|logit_scale": _TEXT,
    _HF_MODEL + r"embeddings\.position_ids": _POSITION_IDS,
}


def convert_torchvision(state: State, _hints: Hints) -> Converted:
    """Converts torchvision's VisionTransformer, whose attention is PyTorch's own.

    Raises:
        WeightsMismatch: a weight that torchvision's model does not have.
    """
    return rename(state, _TORCHVISION, {}, "torchvision")


def convert_mmpretrain(state: State, _hints: Hints) -> Converted:
    """Converts mmpretrain's VisionTransformer and its distilled DeiT.

    Raises:
        WeightsMismatch: a weight that neither has.
    """
    return rename(state, _MMPRETRAIN, {}, "mmpretrain")


def convert_clip(state: State, hints: Hints) -> Converted:
    """Converts the visual tower of OpenAI's CLIP or open_clip, and drops the text tower.

    open_clip's ``pool_type`` and ``final_ln_after_pool`` leave no weight: where no configuration says them, a tower
    with ``ln_pre`` is read as one of its class token, and one without it as CLIPA's, as all that open_clip publishes.

    Raises:
        WeightsMismatch: a weight that neither tower has.
    """
    is_whole = any(name.startswith("visual.") for name in state)
    drops = {_CLIP_TEXT: _TEXT} if is_whole else {}
    renamed = rename(state, _CLIP, drops, "CLIP")
    weights = dict(renamed.state)
    if "head.weight" in weights:
        weights["head.weight"] = weights["head.weight"].T.contiguous()
    is_bare = "norm_pre.weight" not in weights
    # CLIPA, whose tower is bare, normalizes the mean of its patches.
    if hints.config.get("final_ln_after_pool", is_bare):
        weights = {re.sub(r"^norm\.", "fc_norm.", name): weight for name, weight in weights.items()}
    if is_bare:
        weights["patch_embed.proj.bias"] = torch.zeros(len(weights["patch_embed.proj.weight"]))
    # OpenAI's code has one activation and one pooling.
    is_openai = all(name in state for name in _OPENAI)
    facts = {"hidden_act": "quick_gelu", "global_pool": "token"} if is_openai else {}
    return Converted(_as_tower(weights), renamed.dropped, facts)


def convert_huggingface_clip(state: State, _hints: Hints) -> Converted:
    """Converts the visual tower of transformers' CLIP.

    Raises:
        WeightsMismatch: a weight that CLIP does not have, or one part of a joined projection without the others.
    """
    renamed = rename(state, _HUGGING_FACE, _HF_DROPS, "Hugging Face CLIP")
    return Converted(_as_tower(join_projections(renamed.state)), renamed.dropped)


def _as_tower(state: State) -> State:
    """Gives the embeddings the axes of timm's, and the projection the bias of zeros that a head of timm has."""
    shaped = dict(state)
    shaped["cls_token"] = state["cls_token"].reshape(1, 1, -1)
    shaped["pos_embed"] = state["pos_embed"][None]
    if "head.weight" in state:
        shaped["head.bias"] = torch.zeros(len(state["head.weight"]))
    return shaped
