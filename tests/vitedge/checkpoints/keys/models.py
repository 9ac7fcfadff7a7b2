# SPDX-License-Identifier: Apache-2.0
"""Tiny models of both libraries, and for every key of their configurations a value that is not its default."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import timm
import torch
import transformers
from timm.models.beit import Beit
from timm.models.byobnet import ByobNet, ByoModelCfg
from timm.models.deit import VisionTransformerDistilled
from timm.models.pit import PoolingVisionTransformer
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from tests.seeding import seeded

_COLUMN = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "image_size": 32,
    "patch_size": 8,
    "num_labels": 5,
}
_PLAIN = {**_COLUMN, "intermediate_size": 96}
_DINO = {**_COLUMN, "mlp_ratio": 2}
_BIASED = {**_PLAIN, "use_relative_position_bias": True, "use_absolute_position_embeddings": True}
_TOWER = {key: value for key, value in _PLAIN.items() if key != "num_labels"}
_CLIP = {**_TOWER, "projection_dim": 24}
_DECODER = {
    "decoder_hidden_size": 16,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 16,
}
_SWIN = {
    "image_size": 32,
    "patch_size": 4,
    "embed_dim": 24,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "window_size": 4,
    "num_labels": 5,
}
_MOBILEVIT = {
    "image_size": 64,
    "hidden_sizes": [32, 48, 64],
    "neck_hidden_sizes": [16, 16, 24, 32, 32, 40, 64],
    "num_labels": 5,
}
_MOBILEVITV2 = {
    "image_size": 64,
    "width_multiplier": 0.25,
    "n_attn_blocks": [1, 1, 1],
    "num_labels": 5,
}

CLASSES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "vit": ("ViTConfig", "ViTForImageClassification", _PLAIN),
    "deit": ("DeiTConfig", "DeiTForImageClassificationWithTeacher", _PLAIN),
    "vit_mae": ("ViTMAEConfig", "ViTMAEModel", {**_PLAIN, **_DECODER, "mask_ratio": 0.0}),
    "vit_msn": ("ViTMSNConfig", "ViTMSNForImageClassification", _PLAIN),
    "dinov2": ("Dinov2Config", "Dinov2ForImageClassification", _DINO),
    "dinov2_with_registers": ("Dinov2WithRegistersConfig", "Dinov2WithRegistersForImageClassification", _DINO),
    "clip_vision_model": ("CLIPVisionConfig", "CLIPVisionModelWithProjection", _CLIP),
    "siglip_vision_model": ("SiglipVisionConfig", "SiglipVisionModel", _TOWER),
    "beit": ("BeitConfig", "BeitForImageClassification", _BIASED),
    "data2vec-vision": ("Data2VecVisionConfig", "Data2VecVisionForImageClassification", _BIASED),
    "swin": ("SwinConfig", "SwinForImageClassification", _SWIN),
    "mobilevit": ("MobileViTConfig", "MobileViTForImageClassification", _MOBILEVIT),
    "mobilevitv2": ("MobileViTV2Config", "MobileViTV2ForImageClassification", _MOBILEVITV2),
}
"""``model_type`` to the names of its configuration and its model, and the settings of a tiny one."""

_OTHER: dict[str, Any] = {
    "hidden_act": "relu",
    "layer_norm_eps": 0.1,
    "num_attention_heads": 2,
    "image_size": 64,
    "patch_size": 16,
    "num_channels": 1,
    "pooler_output_size": 24,
    "pooler_act": "relu",
    "out_indices": [1],
    "_out_indices": [1],
    "_out_features": ["stage1"],
    "layer_scale_init_value": 0.0,
    "pool_scales": [1, 2],
    "embed_dim": 32,
    "depths": [2, 1],
    "num_heads": [3, 6],
    "hidden_sizes": [24, 32, 48],
    "neck_hidden_sizes": [16, 24, 24, 32, 32, 40, 48],
    "atrous_rates": [1, 2, 3],
    "n_attn_blocks": [2, 1, 1],
    "base_attn_unit_dims": [64, 96, 128],
    "width_multiplier": 0.5,
    "conv_kernel_size": 5,
    "output_stride": 16,
    "window_size": 2,
    "dtype": "float32",
    "architectures": ["Renamed"],
    "transformers_version": "4.0.0",
    "problem_type": "regression",
    "id2label": {0: "a", 1: "b", 2: "c"},
    "label2id": {"a": 0, "b": 1, "c": 2},
    "add_fpn": True,
}
"""Key to a value that is not its default, where doubling a number or turning a flag would not do."""
_ALONE = {"swin": {"patch_size": 2}, "mobilevit": {"patch_size": 4}, "mobilevitv2": {"patch_size": 1}}
"""``model_type`` to values of its own for keys of `_OTHER`."""
_WITH: dict[str, dict[str, Any]] = {"add_fpn": {"out_indices": [0, 1, 1, 2]}}
"""Key to what its value needs beside it."""


def fields_of(model_type: str) -> dict[str, Any]:
    """Every field of a configuration class, and its default."""
    kind = getattr(transformers, CLASSES[model_type][0])
    return {
        entry.name: None if entry.default is dataclasses.MISSING else entry.default
        for entry in dataclasses.fields(kind)
    }


def other(model_type: str, key: str, default: Any) -> Any:
    """A value of a key that is neither its default nor that of the tiny model."""
    table = {**_OTHER, **_ALONE.get(model_type, {})}
    return table[key] if key in table else _turned(CLASSES[model_type][2].get(key, default))


def _turned(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return 2 * value or 0.5
    raise AssertionError(f"a new key without a value to try: give one for the default {value!r}")


def settings_with(model_type: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the tiny model with some keys changed."""
    settings = dict(CLASSES[model_type][2])
    for key, value in values.items():
        settings.update(_WITH.get(key, {}))
        if key in ("id2label", "label2id"):
            settings.pop("num_labels", None)
            settings.update(id2label=_OTHER["id2label"], label2id=_OTHER["label2id"])
        else:
            settings[key] = value
    return settings


ARCHITECTURES: dict[str, tuple[str, tuple[Any, ...], dict[str, Any]]] = {
    "vit": (
        "vit_tiny_patch16_224",
        (VisionTransformer,),
        {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": 5},
    ),
    "distilled": (
        "deit_tiny_distilled_patch16_224",
        (VisionTransformer, VisionTransformerDistilled),
        {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": 5},
    ),
    "beit": (
        "beit_base_patch16_224",
        (Beit,),
        {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": 5},
    ),
    "pit": (
        "pit_ti_224",
        (PoolingVisionTransformer,),
        {"img_size": 32, "patch_size": 8, "stride": 4, "base_dims": [8, 8, 8], "depth": [1, 1, 1], "num_classes": 5},
    ),
    "swin": (
        "swin_tiny_patch4_window7_224",
        (SwinTransformer,),
        {"img_size": 32, "embed_dim": 24, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4, "num_classes": 5},
    ),
    "mobilevit": ("mobilevit_xxs", (ByobNet, ByoModelCfg), {"num_classes": 5}),
    "mobilevitv2": ("mobilevitv2_050", (ByobNet, ByoModelCfg), {"num_classes": 5}),
}
"""Kind to an architecture of timm, the classes that take its arguments, and those of a tiny model."""

_ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "global_pool": ("avg", "max", "avgmax", "map", "prr", "token", ""),
    "act_layer": ("relu", "gelu_tanh", "quick_gelu", "hard_swish", "prelu", "hard_mish"),
    "norm_layer": ("layernorm", "rmsnorm", "layernormfp32", "batchnorm2d", "frozenbatchnorm2d"),
    "img_size": (64, [32, 64]),
    "patch_size": (4,),
    "in_chans": (1,),
    "embed_dim": (96,),
    "depth": (1, [2, 1, 1]),
    "depths": ([2, 1],),
    "num_heads": (6, [3, 6]),
    "heads": ([4, 8, 16],),
    "base_dims": ([16, 16, 16],),
    "stride": (8,),
    "stem_type": ("other", "7x7"),
    "init_values": (0.1,),
    "reg_tokens": (2,),
    "pos_embed": ("none",),
    "fc_norm": (True, False),
    "embed_norm_layer": ("layernorm",),
    "attn_layer": ("diff", "se"),
    "window_size": (2, [2, 4]),
    "head_dim": (6,),
    "weight_init": ("jax",),
    "output_stride": (16,),
    "stem_chs": (24,),
    "width_factor": (0.5,),
    "num_features": (64,),
    "stem_pool": ("maxpool",),
    "downsample": ("conv1x1",),
    "aa_layer": ("blurpool",),
    "head_type": ("mlp",),
    "head_hidden_size": (32,),
    "self_attn_layer": ("bottleneck",),
    "attn_kwargs": ({"rd_ratio": 0.5},),
    "self_attn_kwargs": ({"dim_head": 8},),
    "block_kwargs": ({"num_heads": 2},),
    "device": ("cpu",),
    "dtype": ("float32",),
}
"""Argument to the values to try; timm itself refuses some of them for some classes."""
CALLABLES = ("embed_layer", "block_fn", "mlp_layer", "blocks", "cfg", "cache_dir")
"""Arguments that no JSON file can hold."""


def arguments_of(kind: str) -> dict[str, Any]:
    """Every argument of the classes behind an architecture, and its default."""
    parameters = {
        parameter.name: parameter.default
        for owner in ARCHITECTURES[kind][1]
        for parameter in inspect.signature(owner).parameters.values()
        if parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    }
    return {name: default for name, default in parameters.items() if name not in ("self", "cfg")}


def values_of(name: str, default: Any) -> tuple[Any, ...]:
    """Values of an argument that are not its default."""
    if name in CALLABLES:
        return ("other",)
    if name in _ARGUMENTS:
        return _ARGUMENTS[name]
    return (_turned(default),) if default is not None else (True, False)


def made_by_timm(kind: str, arguments: Mapping[str, Any], images: Tensor) -> tuple[nn.Module, Tensor] | None:
    """The model of timm with these arguments, and its logits, or None where timm itself refuses them."""
    name, _, tiny = ARCHITECTURES[kind]
    made: Callable[..., nn.Module] = timm.create_model
    arguments = {key: getattr(torch, value) if key == "dtype" else value for key, value in arguments.items()}
    try:
        module = seeded(made(name, **{**tiny, **arguments}))
        return module, module(images)
    except Exception:
        return None
