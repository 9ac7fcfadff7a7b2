# SPDX-License-Identifier: Apache-2.0
"""Swin Transformer v1 (arXiv 2103.14030) in the names of timm, Microsoft, Hugging Face and SimMIM (arXiv 2111.09886).

Before 0.9, timm and Microsoft end a stage with the patch merging; timm now begins the next stage with it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NoReturn

from torch import Tensor

from vitedge.checkpoints.families.attention import join_projections
from vitedge.checkpoints.families.configuration import (
    find_activation,
    find_image_size,
    find_labels,
    find_map_pool,
    mlp_ratio,
    shape_of,
)
from vitedge.checkpoints.families.family import Converted, Hints, Naming, State
from vitedge.checkpoints.families.processor import find_preprocessing
from vitedge.checkpoints.families.renaming import Rule, rename
from vitedge.errors import UnknownArchitecture, WeightsMismatch
from vitedge.records import ModelSpec, Origin, Preprocessing

NAME = "swin"
TITLE = "Swin Transformer"

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
EPS = 1e-5
PUBLISHED: Mapping[tuple[int, tuple[int, ...], tuple[int, ...]], str] = {
    (96, (2, 2, 6, 2), (3, 6, 12, 24)): "T",
    (96, (2, 2, 18, 2), (3, 6, 12, 24)): "S",
    (128, (2, 2, 18, 2), (4, 8, 16, 32)): "B",
    (192, (2, 2, 18, 2), (6, 12, 24, 48)): "L",
}
"""First width, depths and heads of the published models to the letter in their names."""
PUBLISHED_SIZES = {6: 192, 7: 224, 12: 384}
"""Window to the image size that the published models with that window were trained at."""
MASK_SIZE = "attention_mask_image_size"
"""Key of `Converted.facts` for the image size that the stored attention masks imply."""

_TABLE = r"layers\.0\.blocks\.0\.attn\.relative_position_bias_table"
_INDEX = "computed from the window size"
_MASK = "computed from the image size"
_DECODER = "decoder of the masked-image pretraining; the encoder is exported as a feature extractor"
_BUFFERS = {r".*\.relative_position_index": _INDEX, r".*\.attn_mask": _MASK}
_MERGING_LAST: tuple[Rule, ...] = (
    (r"layers\.(\d+)\.(downsample\..*)", lambda found: f"layers.{int(found[1]) + 1}.{found[2]}"),
    (r"head\.(?:fc\.)?(weight|bias)", r"head.fc.\1"),
    (r"((?:patch_embed|layers|norm)\..*)", r"\1"),
)


def _from_timm(state: State, _hints: Hints) -> Converted:
    return rename(state, ((r"((?:patch_embed|layers|norm|head\.fc)\..*)", r"\1"),), _BUFFERS, "timm")


def _from_official(state: State, _hints: Hints) -> Converted:
    converted = rename(state, _MERGING_LAST, _BUFFERS, "official")
    return Converted(converted.state, converted.dropped, _mask_facts(state))


def _from_simmim(state: State, _hints: Hints) -> Converted:
    inner = tuple((rf"(?:encoder\.)?{pattern}", target) for pattern, target in _MERGING_LAST)
    drops = {**_BUFFERS, r"(encoder\.)?mask_token": _DECODER, r"decoder\..*": _DECODER}
    converted = rename(state, inner, drops, "SimMIM")
    return Converted(converted.state, converted.dropped, _mask_facts(state))


def _from_huggingface(state: State, _hints: Hints) -> Converted:
    block = r"(?:swin\.)?encoder\.(layers\.\d+\.blocks\.\d+)"
    rules: tuple[Rule, ...] = (
        (r"(?:swin\.)?embeddings\.patch_embeddings\.projection\.(.*)", r"patch_embed.proj.\1"),
        (r"(?:swin\.)?embeddings\.norm\.(.*)", r"patch_embed.norm.\1"),
        (block + r"\.layernorm_before\.(.*)", r"\1.norm1.\2"),
        (block + r"\.layernorm_after\.(.*)", r"\1.norm2.\2"),
        (
            block + r"\.attention\.(?:self|relative_position_bias)\.(relative_position_bias_table)",
            r"\1.attn.\2",
        ),
        (block + r"\.attention\.(?:self\.query|q_proj)\.(.*)", r"\1.attn.q.\2"),
        (block + r"\.attention\.(?:self\.key|k_proj)\.(.*)", r"\1.attn.k.\2"),
        (block + r"\.attention\.(?:self\.value|v_proj)\.(.*)", r"\1.attn.v.\2"),
        (block + r"\.attention\.(?:output\.dense|o_proj)\.(.*)", r"\1.attn.proj.\2"),
        (block + r"\.(?:intermediate\.dense|mlp\.fc1)\.(.*)", r"\1.mlp.fc1.\2"),
        (block + r"\.(?:output\.dense|mlp\.fc2)\.(.*)", r"\1.mlp.fc2.\2"),
        (
            r"(?:swin\.)?encoder\.layers\.(\d+)\.(downsample\..*)",
            lambda found: f"layers.{int(found[1]) + 1}.{found[2]}",
        ),
        (r"(?:swin\.)?layernorm\.(.*)", r"norm.\1"),
        (r"classifier\.(.*)", r"head.fc.\1"),
    )
    drops = {
        r".*\.relative_position_index": _INDEX,
        r"(swin\.)?embeddings\.mask_token": _DECODER,
        r"decoder\..*": _DECODER,
    }
    converted = rename(state, rules, drops, "Hugging Face")
    return Converted(join_projections(converted.state), converted.dropped)


def _from_torchvision(state: State, _hints: Hints) -> Converted:
    """Converts torchvision's list of features: after the stem, stages and mergings take turns."""
    block = r"features\.(\d+)\.(\d+)"

    def placed(rest: str) -> Callable[[re.Match[str]], str]:
        return lambda found: f"layers.{int(found[1]) // 2}.blocks.{found[2]}." + found.expand(rest)

    rules: tuple[Rule, ...] = (
        (r"features\.0\.0\.(.*)", r"patch_embed.proj.\1"),
        (r"features\.0\.2\.(.*)", r"patch_embed.norm.\1"),
        (block + r"\.((?:norm[12]|attn)\..*)", placed(r"\3")),
        (block + r"\.mlp\.0\.(.*)", placed(r"mlp.fc1.\3")),
        (block + r"\.mlp\.3\.(.*)", placed(r"mlp.fc2.\3")),
        (
            r"features\.(\d+)\.((?:reduction|norm)\..*)",
            lambda found: f"layers.{int(found[1]) // 2}.downsample.{found[2]}",
        ),
        (r"(norm\..*)", r"\1"),
        (r"head\.(.*)", r"head.fc.\1"),
    )
    return rename(state, rules, _BUFFERS, "torchvision")


def _from_mmpretrain(state: State, _hints: Hints) -> Converted:
    block = r"(?:backbone\.)?stages\.(\d+)\.blocks\.(\d+)\."
    rules: tuple[Rule, ...] = (
        (r"(?:backbone\.)?patch_embed\.projection\.(.*)", r"patch_embed.proj.\1"),
        (r"(?:backbone\.)?patch_embed\.norm\.(.*)", r"patch_embed.norm.\1"),
        (block + r"(norm[12]\..*)", r"layers.\1.blocks.\2.\3"),
        (block + r"attn\.w_msa\.(.*)", r"layers.\1.blocks.\2.attn.\3"),
        (block + r"ffn\.layers\.0\.0\.(.*)", r"layers.\1.blocks.\2.mlp.fc1.\3"),
        (block + r"ffn\.layers\.1\.(.*)", r"layers.\1.blocks.\2.mlp.fc2.\3"),
        (
            r"(?:backbone\.)?stages\.(\d+)\.(downsample\..*)",
            lambda found: f"layers.{int(found[1]) + 1}.{found[2]}",
        ),
        (r"(?:backbone\.)?norm\d\.(.*)", r"norm.\1"),
        (r"head\.fc\.(.*)", r"head.fc.\1"),
    )
    converted = rename(state, rules, _BUFFERS, "mmpretrain")
    return Converted({name: _unfolded(name, tensor) for name, tensor in converted.state.items()}, converted.dropped)


def _unfolded(name: str, tensor: Tensor) -> Tensor:
    """Reorders what a merging takes: `torch.nn.Unfold` gives a channel's four pixels in a row, Swin a pixel's channels.

    Of the four, Unfold counts along the row first, and Swin along the column.
    """
    if ".downsample." not in name or tensor.shape[-1] % 4 or name.endswith("reduction.bias"):
        return tensor
    pixels = tensor.reshape(*tensor.shape[:-1], -1, 4)[..., [0, 2, 1, 3]]
    return pixels.transpose(-1, -2).reshape(tensor.shape)


def _refuse_v2(_state: State, _hints: Hints) -> NoReturn:
    raise UnknownArchitecture(
        "This is a SwinV2 checkpoint: SwinV2 (cosine attention) is not supported; the nearest family that is: Swin v1."
    )


def _mask_facts(state: State) -> Mapping[str, int]:
    """Returns the image size that the first stored attention mask implies: it has an entry for every window."""
    for name in sorted(name for name in state if name.endswith(".attn_mask")):
        stage = re.search(r"layers\.(\d+)\.", name)
        windows, positions = state[name].shape[:2]
        patch = next((t.shape[-1] for n, t in state.items() if n.endswith("patch_embed.proj.weight")), None)
        if stage and patch and math.isqrt(windows) ** 2 == windows and math.isqrt(positions) ** 2 == positions:
            edge = math.isqrt(windows) * math.isqrt(positions)
            return {MASK_SIZE: edge * 2 ** int(stage[1]) * patch}
    return {}


_TORCHVISION_EDGES = {(96, 12): 232, (96, 24): 246, (128, 24): 238}
"""Width and depth of torchvision's Swin-T, S and B to the short side that their images of 224 pixels are cut from."""

_RESIZE_DOUBT = (
    "torchvision publishes no Swin of this body, and its weights do not say how images are resized: the short side is "
    "taken to be resized to 256 for a crop of 224 pixels, in that proportion (--set crop=…)."
)

NAMINGS = (
    Naming("simmim", (rf"(encoder\.)?{_TABLE}", r"decoder\.0\.weight"), _from_simmim),
    Naming(
        "huggingface",
        (
            r"(swin\.)?encoder\.layers\.0\.blocks\.0\.attention\.(self\.query|q_proj)\.weight",
            r"(swin\.)?encoder\.layers\.0\.blocks\.0\.attention\..*relative_position_bias_table",
        ),
        _from_huggingface,
    ),
    Naming(
        "torchvision",
        (r"features\.1\.0\.attn\.relative_position_bias_table", r"features\.0\.0\.weight"),
        _from_torchvision,
    ),
    Naming(
        "mmpretrain",
        (r"(backbone\.)?stages\.0\.blocks\.0\.attn\.w_msa\.relative_position_bias_table",),
        _from_mmpretrain,
    ),
    Naming("official", (_TABLE, r"layers\.0\.downsample\.reduction\.weight"), _from_official),
    Naming("timm", (_TABLE, r"patch_embed\.proj\.weight"), _from_timm),
    Naming(
        "swinv2", (r"(.*\.)?(layers\.0\.blocks\.0|features\.1\.0)\.(attn|attention(\.self)?)\.logit_scale",), _refuse_v2
    ),
)


@dataclass(frozen=True)
class _Stage:
    width: int
    depth: int
    heads: int
    window: int
    hidden: int


def infer(state: State, naming: str, hints: Hints) -> ModelSpec:
    """Infers all but the image size from shapes; see `vitedge.checkpoints.families.family.Family.infer`."""
    stages = tuple(_read_stage(state, stage) for stage in range(_count(state, "layers.")))
    channels, patch = _read_stem(state, stages)
    image_size, size_origin = _find_image_size(stages, patch, hints)
    _check_windows(stages, patch, image_size)
    activation, activation_origin = find_activation(hints, "gelu")
    crop = 1.0 if min(image_size) >= 384 else 0.9
    if naming == "torchvision":
        edge = _TORCHVISION_EDGES.get((stages[0].width, sum(stage.depth for stage in stages)))
        crop = 224 / (edge or 256)
    table = Preprocessing(IMAGENET_MEAN, IMAGENET_STD, "bicubic", crop)
    preprocessing, preprocessing_origins, notes = find_preprocessing(hints, table, channels)
    if naming == "torchvision" and not edge and preprocessing_origins["preprocessing.crop"] is Origin.TABLE:
        notes += (_RESIZE_DOUBT,)
    if size_origin in (Origin.TABLE, Origin.ASSUMED):
        height, width = image_size
        notes += (f"No file tells the image size: {height}x{width} fits these windows (--set image_size=HxW).",)
    classes = shape_of(state, "head.fc.weight")[0] if "head.fc.weight" in state else 0
    labels = find_labels(hints, classes)
    options, option_origins = _find_options(state, stages, naming)
    options |= (pool := find_map_pool(hints))
    option_origins |= dict.fromkeys((f"options.{name}" for name in pool), Origin.CONFIG)
    shapes = ("in_channels", "classes", "widths", "depths", "heads", "mlp_ratios", "patch", "tokens")
    return ModelSpec(
        family=NAME,
        variant=_variant(stages, patch, naming),
        naming=naming,
        image_size=image_size,
        in_channels=channels,
        classes=classes,
        widths=tuple(stage.width for stage in stages),
        depths=tuple(stage.depth for stage in stages),
        heads=tuple(stage.heads for stage in stages),
        mlp_ratios=tuple(mlp_ratio(stage.hidden, stage.width) for stage in stages),
        patch=patch,
        tokens=(),
        norm_eps=float(hints.config.get("layer_norm_eps", EPS)),
        activation=activation,
        preprocessing=preprocessing,
        labels=labels,
        options=options,
        origins={
            **dict.fromkeys(shapes, Origin.SHAPE),
            "image_size": size_origin,
            "norm_eps": Origin.CONFIG if "layer_norm_eps" in hints.config else Origin.TABLE,
            "activation": activation_origin,
            **({"labels": Origin.CONFIG} if labels else {}),
            **option_origins,
            **preprocessing_origins,
        },
        notes=notes,
    )


def _count(state: State, prefix: str) -> int:
    """Counts by the highest index that follows the prefix in a weight's name; 0 if there is none."""
    pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
    return max((int(found[1]) for found in map(pattern.match, state) if found), default=-1) + 1


def _read_stage(state: State, stage: int) -> _Stage:
    block = f"layers.{stage}.blocks.0"
    rows, heads = shape_of(state, f"{block}.attn.relative_position_bias_table")
    edge = math.isqrt(rows)
    if edge * edge != rows or edge % 2 == 0:
        raise UnknownArchitecture(
            f"{block}.attn.relative_position_bias_table has {rows} rows, which no square window has; "
            "Swin with windows of unequal height and width cannot be read from weights alone."
        )
    width = shape_of(state, f"{block}.norm1.weight")[0]
    if shape_of(state, f"{block}.attn.qkv.weight") != (3 * width, width) or width % heads:
        raise UnknownArchitecture(
            f"{block}.attn.qkv.weight is {shape_of(state, f'{block}.attn.qkv.weight')}; "
            f"Swin's {heads} heads share its width of {width}."
        )
    hidden = shape_of(state, f"{block}.mlp.fc1.weight")[0]
    return _Stage(width, _count(state, f"layers.{stage}.blocks."), heads, (edge + 1) // 2, hidden)


def _read_stem(state: State, stages: tuple[_Stage, ...]) -> tuple[int, int]:
    """Returns input channels and the edge of a patch in pixels."""
    width, channels, patch, across = shape_of(state, "patch_embed.proj.weight")
    if patch != across:
        raise UnknownArchitecture(f"Swin has square patches; patch_embed.proj.weight has {patch}x{across}.")
    widths = tuple(stage.width for stage in stages)
    if widths != tuple(width * 2**stage for stage in range(len(stages))):
        written = "-".join(str(each) for each in widths)
        raise UnknownArchitecture(
            f"Swin doubles its width of {width} from stage to stage; these stages have {written}."
        )
    return channels, patch


def _find_image_size(stages: tuple[_Stage, ...], patch: int, hints: Hints) -> tuple[tuple[int, int], Origin]:
    """Returns the image size: given, else implied by masks, else configured, else that of a last map of one window.

    The last rule holds for the published models, and is certain where the last window is smaller than the first.
    """
    known = find_image_size(hints)
    if known is not None and known[1] is Origin.GIVEN:
        return known
    if MASK_SIZE in hints.config:
        return (hints.config[MASK_SIZE],) * 2, Origin.SHAPE
    if known is not None:
        return known
    window = stages[-1].window
    edge = patch * 2 ** (len(stages) - 1) * window
    if window < max(stage.window for stage in stages):
        return (edge, edge), Origin.SHAPE
    return (edge, edge), Origin.TABLE if PUBLISHED_SIZES.get(window) == edge else Origin.ASSUMED


def _check_windows(stages: tuple[_Stage, ...], patch: int, image_size: tuple[int, int]) -> None:
    for index, stage in enumerate(stages):
        map_edge = -(-(min(image_size) // patch) // 2**index)
        if stage.window > map_edge:
            smallest = max(patch * 2**each * stages[each].window for each in range(len(stages)))
            raise WeightsMismatch(
                f"At {image_size[0]}x{image_size[1]} pixels stage {index} has a map of {map_edge} patches, but its "
                f"weights are for windows of {stage.window}: the image size of this checkpoint is at least {smallest}."
            )


def _find_options(state: State, stages: tuple[_Stage, ...], naming: str) -> tuple[dict[str, object], dict[str, Origin]]:
    options: dict[str, object] = {
        "window": tuple(stage.window for stage in stages),
        "qkv_bias": "layers.0.blocks.0.attn.qkv.bias" in state,
    }
    origins = {"options.window": Origin.SHAPE, "options.qkv_bias": Origin.SHAPE}
    if naming == "huggingface":
        # Its layer_norm_eps does not reach these norms, which keep PyTorch's default.
        options |= {"merge_norm_eps": EPS, "pad_first": True}
        origins |= {"options.merge_norm_eps": Origin.TABLE, "options.pad_first": Origin.TABLE}
    if naming in ("torchvision", "mmpretrain"):
        options["pad_first"] = True
        origins["options.pad_first"] = Origin.TABLE
    return options, origins


def _variant(stages: tuple[_Stage, ...], patch: int, naming: str) -> str:
    depths = tuple(stage.depth for stage in stages)
    letter = PUBLISHED.get((stages[0].width, depths, tuple(stage.heads for stage in stages)))
    if letter is None or any(stage.hidden != 4 * stage.width for stage in stages):
        widths = "-".join(str(stage.width) for stage in stages)
        model = "SimMIM Swin encoder" if naming == "simmim" else "Swin"
        return f"custom {model} (widths {widths}, depths {'-'.join(str(depth) for depth in depths)})"
    if naming == "simmim":
        return f"SimMIM Swin-{letter} encoder"
    return f"Swin-{letter}/{patch} window {stages[0].window}"
