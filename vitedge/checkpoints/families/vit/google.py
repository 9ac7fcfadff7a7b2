# SPDX-License-Identifier: Apache-2.0
"""Google's ``.npz`` weights of ViT, from vision_transformer (flax.nn and linen) and big_vision, in timm's names.

Kernels are stored input first (HWIO for convolutions), queries, keys and values apart and split into heads, and
big_vision may stack all blocks along a leading axis.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from torch import Tensor

from vitedge.checkpoints.families.attention import join_projections
from vitedge.checkpoints.families.family import Converted, Hints, State
from vitedge.checkpoints.families.vit.stem import standardized
from vitedge.errors import WeightsMismatch

_PREFIXES = ("opt/target/", "params/img/", "params/")
_STATE = r"opt/.*|step|extra/.*|chrono/.*"
_STACKED = "Transformer/encoderblock/"
_ATTENTION = r"Transformer/encoderblock_(\d+)/MultiHeadDotProductAttention_[01]"


def _same(weight: Tensor) -> Tensor:
    return weight


def _flat(weight: Tensor) -> Tensor:
    return weight.reshape(-1)


def _dense(weight: Tensor) -> Tensor:
    return weight.T.contiguous()


def _convolution(weight: Tensor) -> Tensor:
    return weight.permute(3, 2, 0, 1).contiguous()


def _standard_convolution(weight: Tensor) -> Tensor:
    return standardized(_convolution(weight))


def _position(weight: Tensor) -> Tensor:
    return weight if weight.ndim == 3 else weight.unsqueeze(0)


def _heads(weight: Tensor) -> Tensor:
    return weight.flatten(1).T


def _projection(weight: Tensor) -> Tensor:
    return weight.reshape(-1, weight.shape[-1]).T.contiguous()


_BLOCK = r"Transformer/encoderblock_(\d+)"
_UNIT = r"block(\d+)/unit(\d+)"
_RENAMED: tuple[tuple[str, str, Callable[[Tensor], Tensor]], ...] = (
    (r"cls", "cls_token", _same),
    (r"(?:Transformer/posembed_input/)?pos_embedding", "pos_embed", _position),
    (r"embedding/kernel", "patch_embed.proj.weight", _convolution),
    (r"embedding/bias", "patch_embed.proj.bias", _flat),
    (r"Transformer/encoder_norm/scale", "norm.weight", _flat),
    (r"Transformer/encoder_norm/bias", "norm.bias", _flat),
    (r"head/kernel", "head.weight", _dense),
    (r"head/bias", "head.bias", _flat),
    (r"pre_logits/kernel", "pre_logits.fc.weight", _dense),
    (r"pre_logits/bias", "pre_logits.fc.bias", _flat),
    (_BLOCK + r"/LayerNorm_0/scale", r"blocks.{0}.norm1.weight", _flat),
    (_BLOCK + r"/LayerNorm_0/bias", r"blocks.{0}.norm1.bias", _flat),
    (_BLOCK + r"/LayerNorm_[12]/scale", r"blocks.{0}.norm2.weight", _flat),
    (_BLOCK + r"/LayerNorm_[12]/bias", r"blocks.{0}.norm2.bias", _flat),
    (_BLOCK + r"/MlpBlock_[03]/Dense_0/kernel", r"blocks.{0}.mlp.fc1.weight", _dense),
    (_BLOCK + r"/MlpBlock_[03]/Dense_0/bias", r"blocks.{0}.mlp.fc1.bias", _flat),
    (_BLOCK + r"/MlpBlock_[03]/Dense_1/kernel", r"blocks.{0}.mlp.fc2.weight", _dense),
    (_BLOCK + r"/MlpBlock_[03]/Dense_1/bias", r"blocks.{0}.mlp.fc2.bias", _flat),
    (_ATTENTION + r"/query/kernel", r"blocks.{0}.attn.q.weight", _heads),
    (_ATTENTION + r"/query/bias", r"blocks.{0}.attn.q.bias", _flat),
    (_ATTENTION + r"/key/kernel", r"blocks.{0}.attn.k.weight", _heads),
    (_ATTENTION + r"/key/bias", r"blocks.{0}.attn.k.bias", _flat),
    (_ATTENTION + r"/value/kernel", r"blocks.{0}.attn.v.weight", _heads),
    (_ATTENTION + r"/value/bias", r"blocks.{0}.attn.v.bias", _flat),
    (_ATTENTION + r"/out/kernel", r"blocks.{0}.attn.proj.weight", _projection),
    (_ATTENTION + r"/out/bias", r"blocks.{0}.attn.proj.bias", _flat),
    (r"conv_root/kernel", "patch_embed.backbone.{root}conv.weight", _standard_convolution),
    (r"gn_root/scale", "patch_embed.backbone.{root}norm.weight", _flat),
    (r"gn_root/bias", "patch_embed.backbone.{root}norm.bias", _flat),
    (_UNIT + r"/conv([123])/kernel", "patch_embed.backbone.{stage}.conv{2}.weight", _standard_convolution),
    (_UNIT + r"/gn([123])/scale", "patch_embed.backbone.{stage}.norm{2}.weight", _flat),
    (_UNIT + r"/gn([123])/bias", "patch_embed.backbone.{stage}.norm{2}.bias", _flat),
    (_UNIT + r"/conv_proj/kernel", "patch_embed.backbone.{stage}.downsample.conv.weight", _standard_convolution),
    (_UNIT + r"/gn_proj/scale", "patch_embed.backbone.{stage}.downsample.norm.weight", _flat),
    (_UNIT + r"/gn_proj/bias", "patch_embed.backbone.{stage}.downsample.norm.bias", _flat),
)


def convert(state: State, _hints: Hints) -> Converted:
    """Converts Google's names, layouts and separate projections to timm's.

    Raises:
        WeightsMismatch: an array that is none of these models', or a query without its key and value.
    """
    arrays, dropped = _unprefixed(state)
    arrays = _unstacked(arrays)
    root = "stem." if any(re.match(_UNIT, name) for name in arrays) else ""
    converted = join_projections(dict(_renamed(name, array, root) for name, array in arrays.items()))
    heads = {array.shape[1] for name, array in arrays.items() if name.endswith("/query/kernel") and array.ndim == 3}
    return Converted(converted, dropped, {"num_attention_heads": heads.pop()} if len(heads) == 1 else {})


def _unprefixed(state: State) -> tuple[State, dict[str, str]]:
    prefix = next((p for p in _PREFIXES if f"{p}embedding/kernel" in state), "")
    arrays: State = {}
    dropped: dict[str, str] = {}
    for name, array in state.items():
        if name.startswith(prefix) and not (prefix == "" and re.fullmatch(_STATE, name)):
            arrays[name[len(prefix) :]] = array
        elif re.fullmatch(_STATE, name):
            dropped[name] = "state of the optimizer"
        else:
            raise WeightsMismatch(f"The array {name} belongs to no ViT: it lies outside {prefix}.")
    return arrays, dropped


def _unstacked(arrays: State) -> State:
    result: State = {}
    for name, array in arrays.items():
        if not name.startswith(_STACKED):
            result[name] = array
            continue
        for index, part in enumerate(array):
            result[f"Transformer/encoderblock_{index}/{name[len(_STACKED) :]}"] = part
    return result


def _renamed(name: str, array: Tensor, root: str) -> tuple[str, Tensor]:
    for pattern, new, change in _RENAMED:
        if found := re.fullmatch(pattern, name):
            groups = found.groups()
            stage = f"stages.{int(groups[0]) - 1}.blocks.{int(groups[1]) - 1}" if len(groups) > 1 else ""
            try:
                return new.format(*groups, root=root, stage=stage), change(array)
            except (RuntimeError, IndexError) as error:
                shape = tuple(array.shape)
                raise WeightsMismatch(
                    f"The array {name} of shape {shape} is not laid out as in Google's ViT."
                ) from error
    raise WeightsMismatch(f"The array {name} has no place in a ViT; vitedge reads class-token and mean-pooled ones.")
