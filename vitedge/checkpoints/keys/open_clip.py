# SPDX-License-Identifier: Apache-2.0
"""The keys of ``open_clip_config.json``, and the facts that a family reads from them.

Complete for open_clip 3: ``CLIPVisionCfg`` is ``model_cfg.vision_cfg``, ``PreprocessCfg`` is ``preprocess_cfg``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from vitedge.checkpoints.keys import facts
from vitedge.checkpoints.keys.meaning import (
    Fact,
    Irrelevant,
    Only,
    Read,
    Table,
    is_count,
    is_deviations,
    is_epsilon,
    is_flag,
    is_number,
    is_positive,
    is_possible,
    is_size,
    is_statistics,
)
from vitedge.errors import UnknownArchitecture
from vitedge.records import ModelSpec

MODEL, VISION, IMAGES = "model_cfg", "model_cfg.vision_cfg", "preprocess_cfg"
"""Sections of the file."""

_TEXT = Irrelevant("of the text tower, which does not see the image")
_TRAINING = Irrelevant("used in training alone")
_OUTPUTS = Irrelevant("which outputs the library returns; the export has its own")
_TIMM = Irrelevant("of a tower that timm builds, which timm_model_name would name")
_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_POOLS = {"tok": "token", "avg": "avg"}
_CROP_MODES = {"shortest": "center", "squash": "squash"}
_DEFAULTS: Mapping[str, Any] = {"head_width": 64, "width": 768, "pool_type": "tok", "final_ln_after_pool": False}


def _is_norm(value: Any) -> bool:
    return isinstance(value, Mapping) and set(value) <= {"eps"} and all(is_epsilon(eps) for eps in value.values())


def _head_width(spec: ModelSpec) -> int:
    return spec.widths[0] // spec.heads[0]


_TOWER: Table = {
    "layers": facts.DEPTHS,
    "width": facts.WIDTH,
    "head_width": Fact(
        "heads",
        lambda value: is_count(value) and value > 0,
        lambda value, spec: spec.widths[0] // value == spec.heads[0],
        _head_width,
    ),
    "mlp_ratio": facts.RATIO,
    "patch_size": facts.PATCH,
    "image_size": facts.GRID,
    "ls_init_value": facts.LAYER_SCALE,
    "no_ln_pre": Fact(
        "options.pre_norm",
        is_flag,
        lambda value, spec: bool(value) != spec.options["pre_norm"],
        lambda spec: not spec.options["pre_norm"],
    ),
    "pool_type": Fact(
        "options.pool",
        lambda value: value in _POOLS,
        lambda value, spec: {"tok": "class", "avg": "mean"}[value] == spec.options["pool"],
        lambda spec: spec.options["pool"],
    ),
    "final_ln_after_pool": facts.FC_NORM,
    "act_kwargs": Only(({}, {"approximate": "none"}, {"approximate": "tanh"})),
    "norm_kwargs": Read(_is_norm),
    "attentional_pool": Only((False,)),
    "attn_pooler_queries": Irrelevant("of the attentional pool, which only attentional_pool switches on"),
    "attn_pooler_heads": Irrelevant("of the attentional pool, which only attentional_pool switches on"),
    "pos_embed_type": Irrelevant("the positions are stored with the weights"),
    "patch_dropout": _TRAINING,
    "output_tokens": _OUTPUTS,
    "block_type": Only(("default",)),
    **dict.fromkeys(
        ("qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn_inner", "scale_attn", "scale_fc"), Only((False,))
    ),
    "timm_model_name": Only(("",)),
    **dict.fromkeys(
        ("timm_model_pretrained", "timm_pool", "timm_proj", "timm_proj_bias", "timm_drop", "timm_drop_path"), _TIMM
    ),
}
_MODEL: Table = {
    "embed_dim": facts.CLASSES,
    "quick_gelu": Read(is_flag),
    **dict.fromkeys(
        (
            *("text_cfg", "custom_text", "multimodal_cfg", "decoder_cfg", "init_logit_scale", "init_logit_bias"),
            *("nonscalar_logit_scale", "vocab_size", "hf_tokenizer_name"),
        ),
        _TEXT,
    ),
    "output_dict": _OUTPUTS,
    "cast_dtype": Irrelevant("the number type that the library computes with"),
}
_IMAGES: Table = {
    "size": Read(is_size),
    "mode": Only(("RGB",)),
    "mean": Read(lambda value: is_number(value) or is_statistics(value)),
    "std": Read(lambda value: is_positive(value) or is_deviations(value)),
    "interpolation": Only(("bicubic", "bilinear", "random")),  # random is of training; images are resized bicubic
    "resize_mode": Only(tuple(_CROP_MODES)),
    "fill_color": Irrelevant("of the padding, which only resize_mode longest has"),
}
TABLES: Mapping[str, Table] = {"": {}, MODEL: _MODEL, VISION: _TOWER, IMAGES: _IMAGES}
"""Section to its keys."""


def is_open_clip(config: Mapping[str, Any]) -> bool:
    """Returns whether a JSON object is an ``open_clip_config.json``."""
    model = config.get(MODEL)
    return isinstance(model, Mapping) and isinstance(model.get("vision_cfg"), Mapping)


def entries(config: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Yields section, name and value of every key."""
    model = config[MODEL]
    yield from (("", name, value) for name, value in config.items() if name not in (MODEL, IMAGES))
    yield from ((MODEL, name, value) for name, value in model.items() if name != "vision_cfg")
    yield from ((VISION, name, value) for name, value in model["vision_cfg"].items())
    images = config.get(IMAGES, {})
    # What is no mapping is a key that nobody knows, and refused as one.
    yield from (
        ((IMAGES, name, value) for name, value in images.items())
        if isinstance(images, Mapping)
        else [("", IMAGES, images)]
    )


def told(keys: Mapping[tuple[str, str], Any]) -> dict[str, Any]:
    """Returns the facts of a visual tower under the names that families read.

    Args:
        keys: section and name to the value, for all that are not null. Values of a wrong kind are left out here, and
            refused by their names later.
    """
    good = {key: value for key, value in keys.items() if is_possible(TABLES[key[0]].get(key[1]), value)}
    tower = {**_DEFAULTS, **{name: value for (section, name), value in good.items() if section == VISION}}
    images = {name: value for (section, name), value in good.items() if section == IMAGES}
    tanh = tower.get("act_kwargs", {}).get("approximate") == "tanh"
    gelu = "gelu_tanh" if tanh else "gelu"
    found = {
        "head_width": tower["head_width"],
        "num_heads": int(tower["width"]) // int(tower["head_width"]),
        "hidden_act": "quick_gelu" if good.get((MODEL, "quick_gelu")) else gelu,
        "layer_norm_eps": tower.get("norm_kwargs", {}).get("eps", 1e-5),
        "global_pool": _POOLS[tower["pool_type"]],
        "final_ln_after_pool": bool(tower["final_ln_after_pool"]),
        "mean": _each(images.get("mean", _CLIP_MEAN)),
        "std": _each(images.get("std", _CLIP_STD)),
        "interpolation": "bilinear" if images.get("interpolation") == "bilinear" else "bicubic",
        "crop_mode": _CROP_MODES[images.get("resize_mode", "shortest")],
        "crop_pct": 1.0,
    }
    size = tower.get("image_size", images.get("size"))
    return {**found, **({} if size is None else {"image_size": size})}


def _each(value: Any) -> tuple[float, ...]:
    return tuple(value) if isinstance(value, (list, tuple)) else (value,)


def as_timm(config: Mapping[str, Any], where: str) -> dict[str, Any] | None:
    """Returns the configuration of timm for a tower that timm builds; None for open_clip's own.

    Raises:
        UnknownArchitecture: a pooling or a projection behind timm's model that cannot be rebuilt, or an unknown key.
    """
    tower = {name: value for name, value in config[MODEL]["vision_cfg"].items() if value is not None}
    name = tower.get("timm_model_name")
    if not name or not isinstance(name, str):
        return None
    checks = {
        "timm_pool": tower.get("timm_pool", "avg") in ("avg", "token", "map"),
        "timm_proj": tower.get("timm_proj", "linear") in ("", "none"),
        **{key: False for key in tower if key not in _TOWER},
    }
    wrong = next((key for key, good in checks.items() if not good), None)
    if wrong is not None:
        raise UnknownArchitecture(
            f"{where} says {VISION}.{wrong} = {tower.get(wrong)!r}, which vitedge cannot build behind timm's {name}; "
            "pass the weights of the model of timm alone, outside of its folder."
        )
    found = told({(section, key): value for section, key, value in entries(config) if value is not None})
    images = {key: found[key] for key in ("mean", "std", "interpolation", "crop_mode", "crop_pct")}
    sizes = {"img_size": found["image_size"]} if "image_size" in found else {}
    arguments = {"global_pool": tower.get("timm_pool", "avg"), **sizes}
    return {"architecture": name, "model_args": arguments, "pretrained_cfg": images}
