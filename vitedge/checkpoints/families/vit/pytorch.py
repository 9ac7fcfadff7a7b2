# SPDX-License-Identifier: Apache-2.0
"""ViTs in PyTorch that differ from timm in few names: timm's own, DeiT-III, MAE, HPM, DINO, DINOv2.

Their signatures are told apart in `vitedge.checkpoints.families.vit.spec`; one converter serves them all, because a
name that one of them has means the same in every other.
"""

from __future__ import annotations

import re

from vitedge.checkpoints.families.family import Converted, Hints, State
from vitedge.checkpoints.families.vit.stem import standardized

_DROPPED = (
    (r"decoder_.*", "the decoder is for pre-training only"),
    (r"(vis_)?mask_token|masked_embed", "the mask token is for pre-training only"),
    (r"saliency_model\..*", "the saliency model is for pre-training only"),
    (r"head\.(mlp|last_layer)(\..*)?|(dino|ibot)_head\..*", "the projection head is for pre-training only"),
)
_RENAMED = (
    (r"(blocks\.\d+)\.gamma_([12])", r"\1.ls\2.gamma"),
    (r"(blocks\.\d+)\.mlp\.w12\.(weight|bias)", r"\1.mlp.fc1.\2"),
    (r"(blocks\.\d+)\.mlp\.w3\.(weight|bias)", r"\1.mlp.fc2.\2"),
)
_CHUNKED = re.compile(r"blocks\.(\d+)\.(\d+)\.(.+)")
_PROBE_EPS = 1e-6
"""Epsilon of the batch norm that MAE's linear probe puts before the head."""


def convert(state: State, _hints: Hints) -> Converted:
    """Renames weights to timm's names, drops those of pre-training alone, and leaves unknown ones for the check."""
    kept: State = {}
    dropped: dict[str, str] = {}
    for original, weight in state.items():
        name = original.removeprefix("backbone.")
        if reason := next((why for pattern, why in _DROPPED if re.fullmatch(pattern, name)), None):
            dropped[original] = reason
        else:
            kept[name] = weight
    kept = _unchunked(kept)
    for pattern, new in _RENAMED:
        kept = {re.sub(f"^{pattern}$", new, name): weight for name, weight in kept.items()}
    if "register_tokens" in kept:
        kept["reg_token"] = kept.pop("register_tokens")
        kept = fold_class_position(kept)
    for name in [name for name in kept if name.startswith("patch_embed.backbone.") and kept[name].ndim == 4]:
        kept[name] = standardized(kept[name])
    return Converted(_fold_probe(kept), dropped)


def fold_class_position(state: State) -> State:
    """Converts DINOv2's embeddings with register tokens to timm's.

    There the class token has a position and the registers have none; timm gives positions to all prefix tokens or to
    none of them. So the position is added to the class token, with the same sum.
    """
    position = state.get("pos_embed")
    if "reg_token" not in state or "cls_token" not in state or position is None or position.ndim != 3:
        return state
    state["cls_token"] = state["cls_token"] + position[:, :1]
    state["pos_embed"] = position[:, 1:]
    return state


def _unchunked(state: State) -> State:
    """Renames ``blocks.CHUNK.BLOCK``, as DINOv2 trains them, to ``blocks.INDEX`` in the order of the pairs."""
    found = {name: _CHUNKED.fullmatch(name) for name in state}
    pairs = sorted({(int(match[1]), int(match[2])) for match in found.values() if match})
    index = {pair: position for position, pair in enumerate(pairs)}
    return {
        f"blocks.{index[int(match[1]), int(match[2])]}.{match[3]}" if (match := found[name]) else name: weight
        for name, weight in state.items()
    }


def _fold_probe(state: State) -> State:
    """Folds MAE's linear probe, a batch norm without weights before a linear layer, into one linear layer."""
    if not {"head.0.running_mean", "head.0.running_var", "head.1.weight", "head.1.bias"} <= set(state):
        return state
    mean, variance = state.pop("head.0.running_mean"), state.pop("head.0.running_var")
    state.pop("head.0.num_batches_tracked", None)
    weight = state.pop("head.1.weight").double() * (variance.double() + _PROBE_EPS).rsqrt()
    bias = state.pop("head.1.bias").double() - weight @ mean.double()
    state["head.weight"], state["head.bias"] = weight.to(mean.dtype), bias.to(mean.dtype)
    return state
