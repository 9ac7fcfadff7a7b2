# SPDX-License-Identifier: Apache-2.0
"""BEiT (arXiv 2106.08254) in the names of timm, Microsoft and Hugging Face, and the ViT of SimMIM (arXiv 2111.09886).

What sets the family apart from ViT: relative position biases, of every block or shared by all, and projections whose
keys have no bias.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from vitedge.checkpoints.families.attention import join_projections
from vitedge.checkpoints.families.configuration import (
    find_activation,
    find_image_size,
    find_labels,
    mlp_ratio,
    shape_of,
)
from vitedge.checkpoints.families.family import Converted, Hints, Naming, State
from vitedge.checkpoints.families.heads import told_heads
from vitedge.checkpoints.families.processor import find_preprocessing
from vitedge.checkpoints.families.renaming import Rule, rename
from vitedge.errors import UnknownArchitecture, WeightsMismatch
from vitedge.records import ModelSpec, Origin, Preprocessing

NAME = "beit"
TITLE = "BEiT"

IMAGENET = Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
INCEPTION = Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
EPS = 1e-6
HUGGINGFACE_EPS = 1e-12
HEAD_WIDTH = 64
PUBLISHED = {(768, 12, 12): "B", (1024, 24, 16): "L"}
"""Width, depth and heads of the published models to the letter in their names."""

_INDEX = "computed from the image size"
_PRETRAINING = "part of the masked-image pretraining; the encoder is exported as a feature extractor"
_KEY_BIAS = "its part for the keys adds one number to a whole row of scores, which softmax takes out again"
_BIASED = r"(blocks\.\d+\.attn\.(q_bias|relative_position_bias_table)|rel_pos_bias\.relative_position_bias_table)"
_KEPT: tuple[Rule, ...] = (
    (r"(cls_token|pos_embed)", r"\1"),
    (r"((?:patch_embed\.proj|blocks|norm|fc_norm|head|rel_pos_bias)\..*)", r"\1"),
)
_DROPS = {
    r".*\.relative_position_index": _INDEX,
    r"mask_token": _PRETRAINING,
    r"lm_head\..*": _PRETRAINING,
    r"cls_pt_layers\..*": _PRETRAINING,
}


_MODEL = r"(?:(?:beit|data2vec_vision)\.)?"
"""The model within one with a head; Data2Vec's for images is a BEiT by another name."""


def _from_timm(state: State, _hints: Hints) -> Converted:
    return _renamed(state, _KEPT, _DROPS, "BEiT")


def _from_simmim(state: State, _hints: Hints) -> Converted:
    rules = tuple((rf"(?:encoder\.)?{pattern}", target) for pattern, target in _KEPT)
    drops = {rf"(encoder\.)?{pattern}": reason for pattern, reason in _DROPS.items()}
    return _renamed(state, rules, {**drops, r"decoder\..*": _PRETRAINING}, "SimMIM")


def _from_huggingface(state: State, _hints: Hints) -> Converted:
    drops = {
        r".*\.relative_position_index": _INDEX,
        _MODEL + r"embeddings\.mask_token": _PRETRAINING,
        r"lm_head\..*": _PRETRAINING,
    }
    if "beit.layernorm.weight" in state:
        drops[r"layernorm\..*"] = _PRETRAINING
    converted = rename(state, _HUGGINGFACE, drops, "Hugging Face")
    return Converted(join_projections(converted.state), converted.dropped)


def _block(pattern: str, target: str) -> Rule:
    return rf"{_MODEL}(?:encoder\.layer|layers)\.(\d+)\.{pattern}", rf"blocks.\1.{target}"


_HUGGINGFACE: tuple[Rule, ...] = (
    (_MODEL + r"embeddings\.cls_token", "cls_token"),
    (_MODEL + r"embeddings\.position_embeddings", "pos_embed"),
    (_MODEL + r"embeddings\.patch_embeddings\.projection\.(.*)", r"patch_embed.proj.\1"),
    _block(r"layernorm_before\.(.*)", r"norm1.\2"),
    _block(r"layernorm_after\.(.*)", r"norm2.\2"),
    _block(r"lambda_([12])", r"gamma_\2"),
    _block(
        r"(?:attention\.attention\.)?relative_position_bias\.(relative_position_bias_table)",
        r"attn.\2",
    ),
    _block(r"attention\.(?:attention\.query|q_proj)\.weight", "attn.q.weight"),
    _block(r"attention\.(?:attention\.query|q_proj)\.bias", "attn.q_bias"),
    _block(r"attention\.(?:attention\.key|k_proj)\.weight", "attn.k.weight"),
    _block(r"attention\.(?:attention\.value|v_proj)\.weight", "attn.v.weight"),
    _block(r"attention\.(?:attention\.value|v_proj)\.bias", "attn.v_bias"),
    _block(r"attention\.(?:output\.dense|o_proj)\.(.*)", r"attn.proj.\2"),
    _block(r"(?:intermediate\.dense|mlp\.fc1)\.(.*)", r"mlp.fc1.\2"),
    _block(r"(?:output\.dense|mlp\.fc2)\.(.*)", r"mlp.fc2.\2"),
    (
        _MODEL + r"(?:encoder\.relative_position_bias|shared_position_bias)\.(relative_position_bias_table)",
        r"rel_pos_bias.\1",
    ),
    (_MODEL + r"pooler\.layernorm\.(.*)", r"fc_norm.\1"),
    (_MODEL + r"layernorm\.(.*)", r"norm.\1"),
    (r"classifier\.(.*)", r"head.\1"),
)


def _renamed(state: State, rules: tuple[Rule, ...], drops: Mapping[str, str], source: str) -> Converted:
    """Renames weights, after splitting a joined query-key-value bias into those of the queries and the values."""
    split: State = {}
    dropped: dict[str, str] = {}
    for name, tensor in state.items():
        if not name.endswith(".attn.qkv.bias"):
            split[name] = tensor
            continue
        owner = name.removesuffix("qkv.bias")
        split[f"{owner}q_bias"], _, split[f"{owner}v_bias"] = tensor.chunk(3)
        dropped[name] = _KEY_BIAS
    converted = rename(split, rules, drops, source)
    return Converted(converted.state, {**dropped, **converted.dropped})


NAMINGS = (
    Naming("simmim", (r"(encoder\.)?blocks\.0\.attn\.qkv\.weight", r"decoder\.0\.weight"), _from_simmim),
    Naming(
        "huggingface",
        (
            _MODEL + r"(encoder\.layer|layers)\.0\.lambda_1|.*relative_position_bias\.relative_position_bias_table"
            r"|(beit|data2vec_vision)\..*",
            _MODEL + r"(encoder\.layer|layers)\.0\.attention\.(attention\.query|q_proj)\.weight",
        ),
        _from_huggingface,
    ),
    Naming("official", (_BIASED, r".*\.relative_position_index|mask_token|lm_head\.weight"), _from_timm),
    Naming("timm", (_BIASED, r"blocks\.0\.attn\.qkv\.weight"), _from_timm),
)


def infer(state: State, naming: str, hints: Hints) -> ModelSpec:
    """Infers the spec from shapes, hints and tables; see `vitedge.checkpoints.families.family.Family.infer`."""
    width, channels, patch, across = shape_of(state, "patch_embed.proj.weight")
    if patch != across:
        raise UnknownArchitecture(f"BEiT has square patches; patch_embed.proj.weight has {patch}x{across}.")
    depth = _depth(state)
    image_size, size_origin = _find_image_size(state, patch, hints)
    activation, activation_origin = find_activation(hints, "gelu")
    preprocessing, preprocessing_origins, notes = _find_preprocessing(naming, hints, image_size, channels)
    hidden = shape_of(state, "blocks.0.mlp.fc1.weight")[0]
    heads, heads_origin = _find_heads(state, width, hidden, hints)
    if heads_origin is Origin.ASSUMED:
        notes = (f"No file holds the number of heads; {heads} is assumed; --set heads= corrects it.", *notes)
    classes = shape_of(state, "head.weight")[0] if "head.weight" in state else 0
    labels = find_labels(hints, classes)
    options, option_origins = _find_options(state, hints)
    shapes = ("in_channels", "classes", "widths", "depths", "mlp_ratios", "patch", "tokens")
    return ModelSpec(
        family=NAME,
        variant=_variant((width, depth, heads), hidden, patch, naming, headless=classes == 0),
        naming=naming,
        image_size=image_size,
        in_channels=channels,
        classes=classes,
        widths=(width,),
        depths=(depth,),
        heads=(heads,),
        mlp_ratios=(mlp_ratio(hidden, width),),
        patch=patch,
        tokens=("class",),
        norm_eps=float(hints.config.get("layer_norm_eps", HUGGINGFACE_EPS if naming == "huggingface" else EPS)),
        activation=activation,
        preprocessing=preprocessing,
        labels=labels,
        options=options,
        origins={
            **dict.fromkeys(shapes, Origin.SHAPE),
            "image_size": size_origin,
            "heads": heads_origin,
            "norm_eps": Origin.CONFIG if "layer_norm_eps" in hints.config else Origin.TABLE,
            "activation": activation_origin,
            **({"labels": Origin.CONFIG} if labels else {}),
            **option_origins,
            **preprocessing_origins,
        },
        notes=notes,
    )


def _depth(state: State) -> int:
    found = (re.match(r"blocks\.(\d+)\.", name) for name in state)
    return max((int(match[1]) for match in found if match), default=-1) + 1


def _biases(state: State) -> tuple[int, int] | None:
    """Returns rows and columns of a table of relative position biases, or None where the model has none."""
    for name in ("blocks.0.attn.relative_position_bias_table", "rel_pos_bias.relative_position_bias_table"):
        if name in state:
            rows, heads = shape_of(state, name)
            return rows, heads
    return None


def _find_heads(state: State, width: int, hidden: int, hints: Hints) -> tuple[int, Origin]:
    biases = _biases(state)
    given = hints.overrides.get("heads")
    told = None if biases else told_heads(hints, (width,))
    published = (width, _depth(state), width // HEAD_WIDTH) in PUBLISHED and hidden == 4 * width
    candidates = (
        (given[0] if given else None, Origin.GIVEN),
        (biases[1] if biases else None, Origin.SHAPE),
        (told[0][0] if told else None, Origin.CONFIG),
        (width // HEAD_WIDTH or 1, Origin.TABLE if published else Origin.ASSUMED),
    )
    heads, origin = next((value, source) for value, source in candidates if value)
    if width % heads:
        raise UnknownArchitecture(f"A width of {width} does not divide into {heads} heads; give heads that it does.")
    return heads, origin


def _find_image_size(state: State, patch: int, hints: Hints) -> tuple[tuple[int, int], Origin]:
    """Returns the image size: given, else the square that the position tables fit, else configured, else 224."""
    biases = _biases(state)
    distances = biases[0] - 3 if biases else None
    positions = shape_of(state, "pos_embed")[1] - 1 if "pos_embed" in state else None

    def fits(size: tuple[int, int]) -> bool:
        height, width = size[0] // patch, size[1] // patch
        return distances in (None, (2 * height - 1) * (2 * width - 1)) and positions in (None, height * width)

    known = find_image_size(hints)
    if known is not None and known[1] is Origin.GIVEN and not fits(known[0]):
        raise WeightsMismatch(
            f"An image size of {known[0][0]}x{known[0][1]} does not fit the position weights of this checkpoint; "
            "leave it out to have it found, and give the wanted one to the export."
        )
    if known is not None and known[1] is Origin.GIVEN:
        return known
    if distances is None and positions is None:
        return known or ((224, 224), Origin.ASSUMED)
    edge = (math.isqrt(distances) + 1) // 2 if distances is not None else math.isqrt(positions or 0)
    square = (edge * patch, edge * patch)
    if fits(square):
        return square, Origin.SHAPE
    if known is not None and fits(known[0]):
        return known
    raise UnknownArchitecture(
        "The positions of this BEiT are those of no square image, and no configuration says of which; "
        "override image_size with its height and width."
    )


def _find_preprocessing(
    naming: str, hints: Hints, image_size: tuple[int, int], channels: int
) -> tuple[Preprocessing, dict[str, Origin], tuple[str, ...]]:
    published = IMAGENET if naming == "simmim" else INCEPTION
    crop = 1.0 if min(image_size) >= 384 else 0.9
    table = Preprocessing(published.mean, published.std, "bicubic", crop)
    preprocessing, origins, notes = find_preprocessing(hints, table, channels)
    if naming != "simmim" and origins["preprocessing.mean"] is Origin.TABLE:
        notes = (*notes, "BEiT v2 has the same weights but ImageNet's mean and std: override them if this is one.")
    return preprocessing, origins, notes


def _find_options(state: State, hints: Hints) -> tuple[dict[str, object], dict[str, Origin]]:
    norm = next(
        (kind for kind, name in (("pooled", "fc_norm"), ("final", "norm")) if f"{name}.weight" in state), "none"
    )
    present = {
        "position_embedding": "pos_embed" in state,
        "block_bias": "blocks.0.attn.relative_position_bias_table" in state,
        "shared_bias": "rel_pos_bias.relative_position_bias_table" in state,
        "qkv_bias": "blocks.0.attn.q_bias" in state,
        "layer_scale": "blocks.0.gamma_1" in state,
        "norm": norm,
    }
    pool, origin = _find_pool(norm, hints, headless="head.weight" not in state)
    origins = {f"options.{name}": Origin.SHAPE for name in present}
    return {**present, "pool": pool}, {**origins, "options.pool": origin}


def _find_pool(norm: str, hints: Hints, *, headless: bool) -> tuple[str, Origin]:
    """Returns the pooling: ``avg`` over the patches or the class ``token``; an encoder without a head is averaged."""
    config = hints.config
    if norm == "pooled":
        return "avg", Origin.SHAPE
    if config.get("global_pool") in ("avg", "token"):
        return config["global_pool"], Origin.CONFIG
    if isinstance(config.get("use_mean_pooling"), bool):
        return "avg" if config["use_mean_pooling"] else "token", Origin.CONFIG
    return ("avg", Origin.ASSUMED) if headless else ("token", Origin.TABLE)


def _variant(shape: tuple[int, int, int], hidden: int, patch: int, naming: str, *, headless: bool) -> str:
    model = "SimMIM ViT" if naming == "simmim" else "BEiT"
    suffix = " encoder" if headless else ""
    letter = PUBLISHED.get(shape)
    if letter is None or hidden != 4 * shape[0]:
        return f"custom {model}{suffix} (width {shape[0]}, depth {shape[1]})"
    return f"{model}-{letter}/{patch}{suffix}"
