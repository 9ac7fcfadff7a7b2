# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of ViT, DeiT, DeiT-III and the encoders of MAE, HPM, DINO and DINOv2.

The converters are in `pytorch`, `huggingface` and `google` beside this module, the published sizes in `published`; the
``options`` of a spec are listed in `vitedge.models.vit`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from vitedge.checkpoints.families.configuration import (
    edges,
    find_activation,
    find_image_size,
    find_labels,
    mlp_ratio,
    shape_of,
)
from vitedge.checkpoints.families.family import Hints, Naming, State
from vitedge.checkpoints.families.processor import find_preprocessing
from vitedge.checkpoints.families.vit import encoder as vit_encoder
from vitedge.checkpoints.families.vit import google as vit_google
from vitedge.checkpoints.families.vit import huggingface as vit_huggingface
from vitedge.checkpoints.families.vit import libraries as vit_libraries
from vitedge.checkpoints.families.vit import pytorch as vit_pytorch
from vitedge.checkpoints.families.vit import siglip as vit_siglip
from vitedge.checkpoints.families.vit.bodies import Shape
from vitedge.checkpoints.families.vit.published import (
    ACTIVATION_DOUBT,
    CLIP_ACTIVATIONS,
    find_brand,
    find_heads,
    find_pool_origin,
    find_recipe,
    find_variant,
)
from vitedge.errors import UnknownArchitecture, WeightsMismatch
from vitedge.records import ModelSpec, Origin

NAME = "vit"
TITLE = "ViT and DeiT"

_PATCHES = r"(backbone\.)?patch_embed\.proj\.weight"
_POSITIONS = r"(backbone\.)?pos_embed"
_ATTENTION = r"(backbone\.)?blocks\.\d+\.attn\.qkv\.weight"
_HUGGING_FACE = r"(\w+\.)?(encoder\.)?layers?\.\d+\.attention\.(attention\.query|q_proj)\.weight"
_GOOGLE = r"(opt/target/|params/|params/img/)?"

NAMINGS = (
    Naming(
        "google",
        (
            _GOOGLE + "embedding/kernel",
            _GOOGLE + r"Transformer/encoderblock(_\d+)?/MultiHeadDotProductAttention_[01]/query/kernel",
        ),
        vit_google.convert,
    ),
    Naming(
        "huggingface",
        (
            r"(\w+\.)?embeddings\.patch_embeddings\.projection\.weight",
            r"(\w+\.)?embeddings\.position_embeddings",
            r"(\w+\.)?embeddings\.cls_token",
            _HUGGING_FACE,
        ),
        vit_huggingface.convert,
    ),
    Naming(
        "torchvision",
        (r"conv_proj\.weight", "class_token", r"encoder\.layers\.encoder_layer_\d+\.self_attention\.in_proj_weight"),
        vit_libraries.convert_torchvision,
    ),
    Naming(
        "mmpretrain",
        (
            r"(backbone\.)?patch_embed\.projection\.weight",
            r"(backbone\.)?cls_token",
            r"(backbone\.)?layers\.\d+\.attn\.qkv\.weight",
            r"(backbone\.)?layers\.\d+\.ffn\.layers\.0\.0\.weight",
        ),
        vit_libraries.convert_mmpretrain,
    ),
    Naming(
        "clip",
        (
            r"(visual\.)?conv1\.weight",
            r"(visual\.)?class_embedding",
            r"(visual\.)?transformer\.resblocks\.\d+\.attn\.in_proj_weight",
        ),
        vit_libraries.convert_clip,
    ),
    Naming(
        "huggingface-clip",
        (
            r"(vision_model\.)?embeddings\.class_embedding",
            r"(vision_model\.)?pre_layrnorm\.weight",
            r"(vision_model\.)?encoder\.layers\.\d+\.self_attn\.q_proj\.weight",
        ),
        vit_libraries.convert_huggingface_clip,
    ),
    Naming(vit_siglip.NAME, vit_siglip.SIGNATURE, vit_siglip.convert),
    Naming(
        "hpm",
        (_PATCHES, _POSITIONS, _ATTENTION, r"decoder_embed\.weight", r"decoder_\w+_losspred\..*"),
        vit_pytorch.convert,
    ),
    Naming("mae", (_PATCHES, _POSITIONS, _ATTENTION, r"decoder_embed\.weight"), vit_pytorch.convert),
    Naming(
        "dino",
        (_PATCHES, _POSITIONS, _ATTENTION, r"head\.(mlp|last_layer)\..*"),
        vit_pytorch.convert,
    ),
    Naming(
        "dinov2",
        (
            _PATCHES,
            _POSITIONS,
            r"(backbone\.)?mask_token",
            r"(backbone\.)?blocks(\.\d+)?\.\d+\.ls1\.gamma",
            r"(backbone\.)?blocks(\.\d+)?\.\d+\.attn\.qkv\.weight",
        ),
        vit_pytorch.convert,
    ),
    Naming(
        "deit3",
        (_PATCHES, _POSITIONS, _ATTENTION, r"blocks\.\d+\.attn\.qkv\.bias", r"blocks\.\d+\.gamma_1"),
        vit_pytorch.convert,
    ),
    Naming(
        "timm",
        (_PATCHES, _POSITIONS, r"(backbone\.)?blocks(\.\d+)?\.\d+\.attn\.qkv\.weight"),
        vit_pytorch.convert,
    ),
    Naming(vit_encoder.NAME, vit_encoder.SIGNATURE, vit_encoder.convert, is_last=True),
)

_POOLS = {"token": "class", "avg": "mean", "max": "max", "avgmax": "avgmax"}
"""Value of timm's ``global_pool`` to the one of the option ``pool``."""
_SHAPE_FIELDS = ("family", "naming", "in_channels", "classes", "widths", "depths", "mlp_ratios", "patch", "tokens")


@dataclass(frozen=True)
class _Grid:
    size: tuple[int, int]
    """Height and width in pixels."""
    prefixed: bool
    """Whether the position embedding has entries for prefix tokens."""
    origin: Origin
    notes: tuple[str, ...] = ()


def infer(state: State, naming: str, hints: Hints) -> ModelSpec:
    """Infers the spec of a ViT; see `vitedge.checkpoints.families.family.Family.infer`."""
    shape = _read_shape(state, hints)
    options = _read_options(state, shape, hints)
    grid = _find_grid(state, shape, hints)
    options["position_prefix"] = grid.prefixed
    more_origins: dict[str, Origin] = {}
    if naming == vit_encoder.NAME:
        options["norm_first"], more_origins["options.norm_first"] = vit_encoder.find_norm_first(state, hints.config)
    heads, heads_origin, heads_notes = find_heads(shape, naming, hints)
    pool_origin, pool_notes = (
        (Origin.SHAPE, ()) if "distillation" in shape.tokens else find_pool_origin(naming, options, heads_origin, hints)
    )
    brand = find_brand(shape, options, naming, hints)
    recipe = find_recipe(shape, brand, naming, grid.size, options, hints)
    preprocessing, origins, notes = find_preprocessing(hints, recipe.preprocessing, shape.in_channels)
    if recipe.ambiguous:
        origins, more = _doubt(origins, recipe.ambiguous)
        notes += more
    activation, activation_origin, activation_notes = _find_activation(options, naming, hints)
    eps = hints.config.get("layer_norm_eps")
    labels = find_labels(hints, shape.classes)
    return ModelSpec(
        family=NAME,
        variant=find_variant(shape, heads, brand, options),
        naming=naming,
        image_size=grid.size,
        in_channels=shape.in_channels,
        classes=shape.classes,
        widths=(shape.width,),
        depths=(shape.depth,),
        heads=(heads,),
        mlp_ratios=(mlp_ratio(shape.hidden, shape.width),),
        patch=shape.patch,
        tokens=shape.tokens,
        norm_eps=recipe.norm_eps if eps is None else float(eps),
        activation=activation,
        preprocessing=preprocessing,
        labels=labels,
        options=options,
        origins={
            **dict.fromkeys(_SHAPE_FIELDS, Origin.SHAPE),
            **{f"options.{key}": Origin.SHAPE for key in options},
            "options.pool": pool_origin,
            **({"options.pool_prefix": Origin.CONFIG} if "pool_include_prefix" in hints.config else {}),
            **origins,
            "variant": Origin.TABLE,
            "heads": heads_origin,
            "image_size": grid.origin,
            "norm_eps": Origin.TABLE if eps is None else Origin.CONFIG,
            "activation": activation_origin,
            **more_origins,
            **({"labels": Origin.CONFIG} if labels else {}),
        },
        notes=(*grid.notes, *heads_notes, *pool_notes, *activation_notes, *notes, *recipe.notes),
    )


def _read_shape(state: State, hints: Hints) -> Shape:
    projection = shape_of(state, "patch_embed.proj.weight")
    if len(projection) != 4 or projection[2] != projection[3]:
        raise UnknownArchitecture(
            f"The nearest family is ViT, but its patches are square and patch_embed.proj.weight is {projection}."
        )
    width, channels, edge, _ = projection
    stem, stride = _stem_of(state)
    if stem is not None:
        root = "stem.conv" if stem else "conv"
        channels = _dimensions(state, f"patch_embed.backbone.{root}.weight", 4)[1]
    tokens = tuple(
        token
        for token, name in (("class", "cls_token"), ("distillation", "dist_token"), ("register", "reg_token"))
        if name in state
    )
    attention = shape_of(state, "blocks.0.attn.qkv.weight")
    if attention != (3 * width, width):
        raise UnknownArchitecture(
            f"The nearest family is ViT of width {width}, whose blocks.0.attn.qkv.weight is "
            f"{(3 * width, width)}; here it is {attention}."
        )
    return Shape(
        width=width,
        depth=1 + max(_indices(state, r"blocks\.(\d+)\..*")),
        hidden=_dimensions(state, "blocks.0.mlp.fc1.weight", 2)[0],
        classes=_dimensions(state, "head.weight", 2)[0] if "head.weight" in state else 0,
        in_channels=channels,
        patch=int(hints.overrides.get("patch", edge * stride)),
        tokens=tokens,
        registers=_dimensions(state, "reg_token", 3)[1] if "reg_token" in state else 0,
        stem=stem,
        stem_patch=edge,
    )


def _dimensions(state: State, name: str, rank: int) -> tuple[int, ...]:
    shape = shape_of(state, name)
    if len(shape) != rank:
        raise WeightsMismatch(f"The weight {name} has {rank} axes in every ViT; here its shape is {shape}.")
    return shape


def _indices(state: State, pattern: str) -> Iterator[int]:
    return (int(match[1]) for name in state if (match := re.fullmatch(pattern, name)))


def _stem_of(state: State) -> tuple[tuple[int, ...] | None, int]:
    """Returns blocks per stage of a hybrid's ResNet (None without one), and the ResNet's stride in pixels."""
    prefix = r"patch_embed\.backbone\."
    if not any(re.match(prefix, name) for name in state):
        return None, 1
    if "patch_embed.backbone.conv.weight" in state:
        return (), 4
    stages = 1 + max(_indices(state, prefix + r"stages\.(\d+)\..*"), default=-1)
    if not stages or "patch_embed.backbone.stem.conv.weight" not in state:
        raise UnknownArchitecture(
            "The nearest family is the hybrid ViT, whose stem is a ResNet-v2 with one 7x7 convolution in front; "
            "the weights under patch_embed.backbone are another network's."
        )
    depths = (1 + max(_indices(state, prefix + rf"stages\.{stage}\.blocks\.(\d+)\..*")) for stage in range(stages))
    return tuple(depths), 2 ** (1 + stages)


def _read_options(state: State, shape: Shape, hints: Hints) -> dict[str, Any]:
    pooled = "fc_norm.weight" in state
    outer = _dimensions(state, "blocks.0.mlp.fc2.weight", 2)[1]
    if outer not in (shape.hidden, shape.hidden // 2):
        raise UnknownArchitecture(
            f"The nearest family is ViT, whose MLP is plain or SwiGLU; here fc1 gives {shape.hidden} channels and "
            f"fc2 takes {outer}."
        )
    final = "pooled" if pooled else "tokens" if "norm.weight" in state else "none"
    return {
        "qkv_bias": "blocks.0.attn.qkv.bias" in state,
        "qk_norm": "blocks.0.attn.q_norm.weight" in state,
        "layer_scale": "blocks.0.ls1.gamma" in state,
        "pre_norm": "norm_pre.weight" in state,
        "final_norm": final,
        "pool": _pool_of(state, shape, hints),
        "pool_prefix": bool(hints.config.get("pool_include_prefix")),
        "registers": shape.registers,
        "mlp": "plain" if outer == shape.hidden else "swiglu",
        "pre_logits": _dimensions(state, "pre_logits.fc.weight", 2)[0] if "pre_logits.fc.weight" in state else 0,
        "distillation_head": "head_dist.weight" in state,
        "stem": "" if shape.stem is None else "resnet",
        "stem_depths": list(shape.stem or ()),
        "stem_patch": shape.stem_patch if shape.stem is not None else 1,
    }


def _pool_of(state: State, shape: Shape, hints: Hints) -> str:
    joined = "head.weight" in state and "pre_logits.fc.weight" not in state
    if joined and _dimensions(state, "head.weight", 2)[1] == 2 * shape.width:
        return "class+mean"
    if "attn_pool.latent" in state:
        return "map"
    if "distillation" in shape.tokens:  # its heads take the two tokens, and no pooling
        return "class"
    configured = _POOLS.get(str(hints.config.get("global_pool")))
    if configured and (configured != "class" or "class" in shape.tokens):
        return configured
    if "class" not in shape.tokens or "fc_norm.weight" in state:
        return "mean"
    return "class"


def _find_activation(options: dict[str, Any], naming: str, hints: Hints) -> tuple[str, Origin, tuple[str, ...]]:
    if options["mlp"] == "swiglu":  # whatever transformers' hidden_act says, the gate of SwiGLU is SiLU
        found = find_activation(hints, "silu") if "act_layer" in hints.config else ("silu", Origin.TABLE)
        return (*found, ())
    if naming in CLIP_ACTIVATIONS and not {"hidden_act", "act_layer"} & set(hints.config):
        assumed = CLIP_ACTIVATIONS[naming]
        given = "activation" in hints.overrides
        return assumed, Origin.ASSUMED, () if given else (ACTIVATION_DOUBT.format(assumed=assumed),)
    if naming == vit_encoder.NAME and "hidden_act" not in hints.config:
        return "gelu", Origin.ASSUMED, ()
    # timm marks the CLIP encoders that were trained with the sigmoid form in the architecture's name.
    default = "quick_gelu" if "quickgelu" in str(hints.config.get("architecture")) else "gelu"
    if naming == vit_siglip.NAME:
        default = "gelu_tanh"
    return (*find_activation(hints, default), ())


def _find_grid(state: State, shape: Shape, hints: Hints) -> _Grid:
    positions = shape_of(state, "pos_embed")
    if len(positions) != 3 or positions[0] != 1:
        raise UnknownArchitecture(
            f"The nearest family is ViT, whose pos_embed is (1, N, width); here it is {positions}."
        )
    prefix = len(shape.tokens) - bool(shape.registers) + shape.registers
    counts = {True: positions[1] - prefix, False: positions[1]}
    order = (False, True) if shape.registers else (True, False)
    for size, origin in _named_sizes(hints):
        cells = (size[0] // shape.patch) * (size[1] // shape.patch)
        for prefixed in order:
            if counts[prefixed] == cells:
                square = origin is not Origin.GIVEN and size[0] == size[1]
                return _Grid(size, prefixed, Origin.SHAPE if square else origin)
        if origin is Origin.GIVEN:
            raise UnknownArchitecture(
                f"An image of {size[0]}x{size[1]} has {cells} patches of {shape.patch} pixels, but pos_embed was "
                f"trained for {counts[order[0]]}; give the size that it was trained at with --set image_size=HxW."
            )
    for prefixed in order:
        edge = math.isqrt(max(counts[prefixed], 0))
        if edge and edge * edge == counts[prefixed]:
            return _Grid((edge * shape.patch, edge * shape.patch), prefixed, Origin.SHAPE)
    return _guess_grid(counts[order[0]], shape.patch, prefixed=order[0])


def _named_sizes(hints: Hints) -> Iterator[tuple[tuple[int, int], Origin]]:
    if found := find_image_size(hints):
        yield found
    if hints.config.get("image_size"):  # a processor may crop to another size than the model was trained at
        yield edges(hints.config["image_size"]), Origin.CONFIG


def _guess_grid(cells: int, patch: int, *, prefixed: bool) -> _Grid:
    height = next((edge for edge in range(math.isqrt(max(cells, 0)), 0, -1) if cells % edge == 0), 0)
    if not height or cells // height > 4 * height:
        edge = math.isqrt(max(cells - 1, 0))
        square = f" ({edge}x{edge} patches and one more)" if edge and edge * edge == cells - 1 else ""
        raise UnknownArchitecture(
            f"The {cells} positions of pos_embed form no likely grid of patches{square}: a token is "
            f"missing (cls_token), or the image was one patch high (--set image_size={patch}x{max(cells, 0) * patch})."
        )
    size = (height * patch, cells // height * patch)
    note = (
        f"{cells} positions are no square: the image is taken to be {size[0]}x{size[1]} pixels (height x width); "
        "--set image_size=HxW mends it."
    )
    return _Grid(size, prefixed, Origin.ASSUMED, (note,))


def _doubt(origins: dict[str, Origin], reason: str) -> tuple[dict[str, Origin], tuple[str, ...]]:
    """Marks a table's mean and std as assumed, where published models with the same shapes have others."""
    doubtful = [key for key in ("preprocessing.mean", "preprocessing.std") if origins[key] is Origin.TABLE]
    return {**origins, **dict.fromkeys(doubtful, Origin.ASSUMED)}, (reason,) if doubtful else ()
