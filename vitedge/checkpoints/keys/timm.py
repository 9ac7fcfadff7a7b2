# SPDX-License-Identifier: Apache-2.0
"""The keys of timm: arguments of its models (``model_args``), and of ``config.json`` and ``pretrained_cfg``.

Complete for timm 1.0; a test reads the signatures of timm's own classes and fails at a key that is not here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from vitedge.checkpoints.families.timm.signature import index
from vitedge.checkpoints.keys import facts
from vitedge.checkpoints.keys.meaning import (
    Irrelevant,
    Only,
    Read,
    Table,
    each,
    is_depth,
    is_deviations,
    is_input_size,
    is_label_table,
    is_name,
    is_share,
    is_size,
    is_statistics,
)

_TRAINING = Irrelevant("used in training alone")
_WEIGHTS = Irrelevant("first values of weights, which the file replaces")
_SOURCE = Irrelevant("where the weights came from")
_ABOUT = Irrelevant("about the model, for readers")
_FITTING = Irrelevant("for timm's own fitting of pretrained weights to another head or input")
_FACTORY = Irrelevant("how timm makes the module, not what it computes")
_OUTPUTS = Irrelevant("which outputs timm returns; the export has its own")
_SIZES = Irrelevant("which images timm takes at other sizes than the weights'")
_PREPROCESSING = Irrelevant("of the images: read with the preprocessing")

FACTORY: Table = {
    "pretrained": _SOURCE,
    "pretrained_cfg": _SOURCE,
    "pretrained_cfg_overlay": _SOURCE,
    "pretrained_strict": _FITTING,
    "pretrained_model_args": _FITTING,
    "checkpoint_path": _SOURCE,
    "cache_dir": _SOURCE,
    "scriptable": _FACTORY,
    "exportable": _FACTORY,
    "no_jit": _FACTORY,
    "device": _FACTORY,
    "dtype": _FACTORY,
    "features_only": _OUTPUTS,
    "feature_cls": _OUTPUTS,
    "out_indices": _OUTPUTS,
    "pruned": Only((False,)),
    "use_naflex": Only((False,)),
}
"""Arguments of ``timm.create_model`` that every family takes."""

_COMMON: Table = {
    **FACTORY,
    "in_chans": facts.CHANNELS,
    "num_classes": facts.CLASSES,
    "drop_rate": _TRAINING,
    "pos_drop_rate": _TRAINING,
    "proj_drop_rate": _TRAINING,
    "attn_drop_rate": _TRAINING,
    "drop_path_rate": _TRAINING,
    "weight_init": _WEIGHTS,
}

_VIT: Table = {
    **_COMMON,
    "img_size": facts.GRID,
    "patch_size": facts.VIT_PATCH,
    "global_pool": facts.POOL,
    "embed_dim": facts.WIDTH,
    "depth": facts.DEPTHS,
    "num_heads": facts.HEADS,
    "mlp_ratio": facts.RATIO,
    "qkv_bias": facts.option("qkv_bias"),
    "qk_norm": facts.option("qk_norm"),
    "scale_attn_norm": Only((False,)),
    "scale_mlp_norm": Only((False,)),
    "proj_bias": Only((True,)),
    "init_values": facts.LAYER_SCALE,
    "class_token": facts.CLASS_TOKEN,
    "pos_embed": Only(("learn",)),
    "no_embed_class": facts.NO_EMBED_CLASS,
    "reg_tokens": facts.REGISTERS,
    "pre_norm": facts.option("pre_norm"),
    "final_norm": facts.FINAL_NORM,
    "fc_norm": facts.FC_NORM,
    "pool_include_prefix": facts.option("pool_prefix"),
    "dynamic_img_size": _SIZES,
    "dynamic_img_pad": _SIZES,
    "patch_drop_rate": _TRAINING,
    "fix_init": _WEIGHTS,
    "embed_layer": Only(()),
    "embed_norm_layer": Only(("",)),
    "norm_layer": facts.NORM_LAYER,
    "act_layer": facts.ACTIVATION,
    "block_fn": Only(()),
    "mlp_layer": Only(()),
    "attn_layer": Only(()),
    "distilled": facts.DISTILLED,
}

_BEIT: Table = {
    **_COMMON,
    "img_size": facts.GRID,
    "patch_size": facts.PATCH,
    "global_pool": facts.BEIT_POOL,
    "embed_dim": facts.WIDTH,
    "depth": facts.DEPTHS,
    "num_heads": facts.HEADS,
    "qkv_bias": facts.option("qkv_bias"),
    "mlp_ratio": facts.RATIO,
    "swiglu_mlp": Only((False,)),
    "scale_mlp": Only((False,)),
    "norm_layer": Only(()),
    "init_values": facts.LAYER_SCALE,
    "use_abs_pos_emb": facts.option("position_embedding"),
    "use_rel_pos_bias": facts.option("block_bias"),
    "use_shared_rel_pos_bias": facts.option("shared_bias"),
    "head_init_scale": _WEIGHTS,
    "use_fc_norm": facts.POOLED_NORM,
}

_PIT: Table = {
    **_COMMON,
    "img_size": facts.GRID,
    "patch_size": facts.PATCH,
    "stride": facts.STRIDE,
    "stem_type": Irrelevant("timm stores it and does not read it"),
    "base_dims": facts.HEAD_WIDTHS,
    "depth": facts.DEPTHS,
    "heads": facts.HEADS,
    "mlp_ratio": facts.RATIO,
    "global_pool": facts.TOKEN_POOL,
    "distilled": facts.DISTILLED,
}

_SWIN: Table = {
    **_COMMON,
    "img_size": facts.IMAGE_SIZE,
    "patch_size": facts.PATCH,
    "global_pool": facts.MAP_POOL,
    "embed_dim": facts.WIDTH,
    "depths": facts.DEPTHS,
    "num_heads": facts.HEADS,
    "head_dim": facts.HEAD_DIM,
    "window_size": facts.WINDOW,
    "always_partition": Only((False,)),
    "strict_img_size": _SIZES,
    "dynamic_img_size": _SIZES,
    "mlp_ratio": facts.RATIO,
    "qkv_bias": facts.option("qkv_bias"),
    "embed_layer": Only(()),
    "norm_layer": Only(()),
}

_MOBILEVIT: Table = {
    **_COMMON,
    "img_size": facts.IMAGE_SIZE,
    "global_pool": facts.MAP_POOL,
    "output_stride": Only((32,)),
    "drop_block_rate": _TRAINING,
    "drop_block_size": _TRAINING,
    "zero_init_last": _WEIGHTS,
    "blocks": Only(()),
    "downsample": Only(("",)),
    "stem_type": Only(("3x3",)),
    "stem_pool": Only(("",)),
    "stem_chs": facts.STEM,
    "width_factor": Only((1,)),
    "num_features": facts.LAST_CONVOLUTION,
    "fixed_input_size": _SIZES,
    "act_layer": facts.ACTIVATION,
    "norm_layer": Only(("batchnorm", "batchnorm2d")),
    "aa_layer": Only(("",)),
    "head_hidden_size": Only(()),
    "head_type": Only(("classifier",)),
    "attn_layer": Only(("",)),
    "attn_kwargs": Only(({},)),
    "self_attn_layer": Only(("",)),
    "self_attn_kwargs": Only(({},)),
    "block_kwargs": Only(({},)),
}

MODEL_ARGS: Mapping[str, Table] = {
    "vit": _VIT,
    "beit": _BEIT,
    "pit": _PIT,
    "swin": _SWIN,
    "mobilevit": _MOBILEVIT,
    "mobilevitv2": _MOBILEVIT,
}
"""Family to the arguments of its class of timm."""

NAMED = "timm"
"""Value of `ModelSpec.family` of a model that timm builds by its name."""
BY_NAME: Table = {
    "num_classes": facts.CLASSES,
    "in_chans": facts.CHANNELS,
    "img_size": Read(is_size),
    **dict.fromkeys(("depth", "depths", "layers", "num_layers"), Read(each(is_depth))),
}
"""Arguments of a model that timm builds by its name, whose values are checked here; timm judges the others."""

CONFIG: Table = {
    # config.json itself
    "architecture": Read(is_name),
    "num_features": _ABOUT,
    "labels": Read(is_label_table),
    # PretrainedCfg
    "url": _SOURCE,
    "file": _SOURCE,
    "state_dict": _SOURCE,
    "hf_hub_id": _SOURCE,
    "hf_hub_filename": _SOURCE,
    "source": _SOURCE,
    "tag": _SOURCE,
    "custom_load": _FITTING,
    "input_size": Read(is_input_size),
    "test_input_size": _PREPROCESSING,
    "min_input_size": _SIZES,
    "fixed_input_size": _SIZES,
    "interpolation": Read(is_name),
    "crop_pct": Read(is_share),
    "test_crop_pct": _PREPROCESSING,
    "crop_mode": Read(is_name),
    "mean": Read(is_statistics),
    "std": Read(is_deviations),
    "num_classes": facts.CLASSES,
    "label_offset": Only((0,)),
    "label_names": Read(is_label_table),
    "label_descriptions": _ABOUT,
    "pool_size": _FITTING,
    "test_pool_size": _FITTING,
    "first_conv": _FITTING,
    "classifier": _FITTING,
    "license": _ABOUT,
    "description": _ABOUT,
    "origin_url": _ABOUT,
    "paper_name": _ABOUT,
    "paper_ids": _ABOUT,
    "notes": _ABOUT,
    # the wrapper of transformers
    "do_pooling": _OUTPUTS,
}

_ARCHITECTURES = (
    (r"(vit|flexivit|deit|deit3)_.*", "vit"),
    (r"(beit|beitv2)_.*", "beit"),
    (r"pit_.*", "pit"),
    (r"mobilevitv2_.*", "mobilevitv2"),
    (r"mobilevit_.*", "mobilevit"),
    (r"swin_.*", "swin"),
)


def untold(architecture: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what timm's class makes of arguments that leave a default to the architecture, as facts for a family.

    Args:
        architecture: one of timm's names.
        arguments: ``model_args``.
    """
    found: dict[str, Any] = {}
    if "global_pool" not in arguments and "fc_norm" in arguments:
        found["global_pool"] = "avg" if "_gap_" in architecture else "token"
    if "global_pool" not in arguments and "use_fc_norm" in arguments:
        found["global_pool"] = "avg"
    if arguments.get("pre_norm") and "clip" not in architecture:  # CLIP alone has another epsilon
        found["layer_norm_eps"] = facts.LAYERNORM_EPS
    return found


def derived(architecture: str, arguments: Mapping[str, Any]) -> dict[str, bool]:
    """Returns the arguments that timm's class derives from the pooling where ``model_args`` leaves them out.

    Args:
        architecture: one of timm's names; those of ViTs that state their ``fc_norm`` have ``gap`` in them.
        arguments: ``model_args``.
    """
    pool, family = arguments.get("global_pool"), family_of(architecture)
    if pool is None:
        return {}
    if family == "vit" and "fc_norm" not in arguments and "_gap_" not in architecture:
        return {"fc_norm": pool in ("avg", "avgmax", "max")}
    return {"use_fc_norm": pool == "avg"} if family == "beit" and "use_fc_norm" not in arguments else {}


def default_pool(architecture: str) -> str:
    """Returns the ``global_pool`` that timm builds one of its names with, or the empty string for another's."""
    known = index().get(architecture)
    return known.pool if known else ""


def family_of(architecture: str) -> str:
    """Returns the family of one of timm's names, or the empty string for any other."""
    return next((family for pattern, family in _ARCHITECTURES if re.fullmatch(pattern, architecture)), "")
