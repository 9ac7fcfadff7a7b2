# SPDX-License-Identifier: Apache-2.0
"""Tiny MobileViTs of timm and Hugging Face, and ml-cvnets' names for them, written out apart from the converters."""

from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

import torch
from timm.models.byobnet import ByoBlockCfg, ByobNet, ByoModelCfg
from torch import Tensor, nn
from transformers import MobileViTConfig, MobileViTV2Config

from tests.seeding import seeded
from vitedge.checkpoints.families.family import Hints
from vitedge.models import mobilevit as build_v1
from vitedge.models import mobilevitv2 as build_v2
from vitedge.records import ModelSpec

BUILDERS = {"mobilevit": build_v1, "mobilevitv2": build_v2}


def residual(depth: int, channels: int, stride: int, ratio: float = 2.0) -> ByoBlockCfg:
    settings = {"bottle_in": True, "linear_out": True}
    return ByoBlockCfg(type="bottle", d=depth, c=channels, s=stride, gs=1, br=ratio, block_kwargs=settings)


def tiny(version: int = 1, *, classes: int = 5, channels: int = 3, **block: Any) -> nn.Module:
    """Three stages, two of them with a transformer, as somebody builds it with timm's classes for small images."""
    kind = {1: "mobilevit", 2: "mobilevit2"}[version]
    settings = {"patch_size": 2, **({"num_heads": 4} if version == 1 else {}), **block}

    def transformer(channels: int, width: int, depth: int) -> ByoBlockCfg:
        shape = {"transformer_dim": width, "transformer_depth": depth}
        group = None if version == 1 else 1
        return ByoBlockCfg(type=kind, d=1, c=channels, s=1, gs=group, block_kwargs={**settings, **shape})

    config = ByoModelCfg(
        blocks=(
            residual(1, 16, 1),
            (residual(2, 24, 2, 2.5), transformer(24, 32, 1)),
            (residual(1, 32, 2, 4.0), transformer(32, 48, 2)),
        ),
        stem_chs=8,
        stem_pool="",
        downsample="",
        act_layer="silu",
        num_features=64 if version == 1 else 0,
    )
    return seeded(ByobNet(config, num_classes=classes, in_chans=channels))


def published_shape(version: int) -> nn.Module:
    """A tiny model with the five stages and the depths of the published ones, which ml-cvnets can name."""
    kind = {1: "mobilevit", 2: "mobilevit2"}[version]

    def stage(channels: int, width: int, depth: int) -> tuple[ByoBlockCfg, ...]:
        shape = {"transformer_dim": width, "transformer_depth": depth, "patch_size": 2}
        group = None if version == 1 else 1
        block = ByoBlockCfg(type=kind, d=1, c=channels, s=1, gs=group, block_kwargs=shape)
        return residual(1, channels, 2), block

    config = ByoModelCfg(
        blocks=(residual(1, 16, 1), residual(2, 24, 2), stage(32, 32, 2), stage(40, 40, 4), stage(48, 48, 3)),
        stem_chs=16,
        stem_pool="",
        downsample="",
        act_layer="silu",
        num_features=80 if version == 1 else 0,
    )
    return seeded(ByobNet(config, num_classes=5))


def huggingface_config(**changes: Any) -> MobileViTConfig:
    settings = {
        "image_size": 64,
        "hidden_sizes": [16, 24, 32],
        "neck_hidden_sizes": [8, 16, 24, 32, 40, 48, 64],
        "num_attention_heads": 2,
        "layer_norm_eps": 1e-4,
        "num_labels": 5,
    }
    return MobileViTConfig(**{**settings, **changes})


def huggingface_config_v2(**changes: Any) -> MobileViTV2Config:
    settings = {
        "image_size": 64,
        "width_multiplier": 0.25,
        "n_attn_blocks": [1, 2, 1],
        "base_attn_unit_dims": [64, 96, 128],
        "num_labels": 5,
    }
    return MobileViTV2Config(**{**settings, **changes})


def rebuilt(
    family: ModuleType, naming: str, foreign: Mapping[str, Tensor], hints: Hints
) -> tuple[nn.Module, ModelSpec, Mapping[str, str]]:
    """The timm module of a checkpoint in a naming, loaded strictly; its spec; what was dropped."""
    entry = next(entry for entry in family.NAMINGS if entry.name == naming)
    assert entry.missing(foreign) == ()
    converted = entry.convert(dict(foreign), hints)
    spec = family.infer(converted.state, naming, hints)
    module = BUILDERS[spec.family].build(spec)
    module.load_state_dict(converted.state, strict=True)
    return module, spec, converted.dropped


def images(count: int = 2, edge: int = 64) -> Tensor:
    return torch.rand(count, 3, edge, edge, generator=torch.Generator().manual_seed(3))


_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def _unit(cvnets: str, timm: str) -> Iterator[tuple[str, str]]:
    """A convolution without bias and its BatchNorm."""
    yield f"{cvnets}.block.conv.weight", f"{timm}.conv.weight"
    for part in _NORM:
        yield f"{cvnets}.block.norm.{part}", f"{timm}.bn.{part}"


def _residual(cvnets: str, timm: str) -> Iterator[tuple[str, str]]:
    yield from _unit(f"{cvnets}.block.exp_1x1", f"{timm}.conv1_1x1")
    yield from _unit(f"{cvnets}.block.conv_3x3", f"{timm}.conv2_kxk")
    yield from _unit(f"{cvnets}.block.red_1x1", f"{timm}.conv3_1x1")


def _affine(cvnets: str, timm: str) -> Iterator[tuple[str, str]]:
    yield f"{cvnets}.weight", f"{timm}.weight"
    yield f"{cvnets}.bias", f"{timm}.bias"


def _mobilevit_block(cvnets: str, timm: str, depth: int) -> Iterator[tuple[str, str]]:
    yield from _unit(f"{cvnets}.local_rep.conv_3x3", f"{timm}.conv_kxk")
    yield f"{cvnets}.local_rep.conv_1x1.block.conv.weight", f"{timm}.conv_1x1.weight"
    for index in range(depth):
        layer, block = f"{cvnets}.global_rep.{index}", f"{timm}.transformer.{index}"
        yield from _affine(f"{layer}.pre_norm_mha.0", f"{block}.norm1")
        yield from _affine(f"{layer}.pre_norm_mha.1.qkv_proj", f"{block}.attn.qkv")
        yield from _affine(f"{layer}.pre_norm_mha.1.out_proj", f"{block}.attn.proj")
        yield from _affine(f"{layer}.pre_norm_ffn.0", f"{block}.norm2")
        yield from _affine(f"{layer}.pre_norm_ffn.1", f"{block}.mlp.fc1")
        yield from _affine(f"{layer}.pre_norm_ffn.4", f"{block}.mlp.fc2")
    yield from _affine(f"{cvnets}.global_rep.{depth}", f"{timm}.norm")
    yield from _unit(f"{cvnets}.conv_proj", f"{timm}.conv_proj")
    yield from _unit(f"{cvnets}.fusion", f"{timm}.conv_fusion")


def _mobilevitv2_block(cvnets: str, timm: str, depth: int) -> Iterator[tuple[str, str]]:
    yield from _unit(f"{cvnets}.local_rep.0", f"{timm}.conv_kxk")
    yield f"{cvnets}.local_rep.1.block.conv.weight", f"{timm}.conv_1x1.weight"
    for index in range(depth):
        layer, block = f"{cvnets}.global_rep.{index}", f"{timm}.transformer.{index}"
        yield from _affine(f"{layer}.pre_norm_attn.0", f"{block}.norm1")
        yield from _affine(f"{layer}.pre_norm_attn.1.qkv_proj.block.conv", f"{block}.attn.qkv_proj")
        yield from _affine(f"{layer}.pre_norm_attn.1.out_proj.block.conv", f"{block}.attn.out_proj")
        yield from _affine(f"{layer}.pre_norm_ffn.0", f"{block}.norm2")
        yield from _affine(f"{layer}.pre_norm_ffn.1.block.conv", f"{block}.mlp.fc1")
        yield from _affine(f"{layer}.pre_norm_ffn.3.block.conv", f"{block}.mlp.fc2")
    yield from _affine(f"{cvnets}.global_rep.{depth}", f"{timm}.norm")
    yield from _unit(f"{cvnets}.conv_proj", f"{timm}.conv_proj")


def cvnets_names(model: nn.Module, version: int) -> dict[str, Tensor]:
    """The weights of `published_shape` under the names that ml-cvnets gives them; every weight has one."""
    block = {1: _mobilevit_block, 2: _mobilevitv2_block}[version]
    pairs = [*_unit("conv_1", "stem"), *_residual("layer_1.0", "stages.0.0")]
    pairs += [*_residual("layer_2.0", "stages.1.0"), *_residual("layer_2.1", "stages.1.1")]
    for layer, depth in ((3, 2), (4, 4), (5, 3)):
        pairs += _residual(f"layer_{layer}.0", f"stages.{layer - 1}.0")
        pairs += block(f"layer_{layer}.1", f"stages.{layer - 1}.1", depth)
    if version == 1:
        pairs += [*_unit("conv_1x1_exp", "final_conv"), *_affine("classifier.fc", "head.fc")]
    else:
        pairs += _affine("classifier.1", "head.fc")
    state = model.state_dict()
    assert sorted(timm for _, timm in pairs) == sorted(state)
    return {cvnets: state[timm] for cvnets, timm in pairs}
