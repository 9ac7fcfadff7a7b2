# SPDX-License-Identifier: Apache-2.0
"""MobileViT v2 (Mehta and Rastegari, 2022, arXiv 2206.02680). Its options are listed in `structure`."""

from __future__ import annotations

from vitedge.checkpoints.families.family import Converted, Hints, Naming, State
from vitedge.checkpoints.families.mobilevit import cvnets as mobilevit_cvnets
from vitedge.checkpoints.families.mobilevit import huggingface as mobilevit_huggingface
from vitedge.checkpoints.families.mobilevit.structure import MobileViTStructure, Traits, infer_spec
from vitedge.checkpoints.families.renaming import with_batch_counters
from vitedge.records import ModelSpec, Preprocessing

NAME = "mobilevitv2"
TITLE = "MobileViT v2"

MULTIPLIERS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
"""Factors of the widths of MobileViTv2-1.0 for which weights were published."""

_CHANNELS = (64, 128, 256, 384, 512)
_WIDTHS = (128, 192, 256)
_DEPTHS = (2, 4, 3)

# Version 2 was trained on images that Pillow had read, so RGB; a processor that says otherwise is believed.
_TABLE = Preprocessing(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), interpolation="bicubic", crop=0.888)


def _published_name(found: MobileViTStructure) -> str:
    for multiplier in MULTIPLIERS:
        channels, widths = (tuple(int(count * multiplier) for count in counts) for counts in (_CHANNELS, _WIDTHS))
        if (found.options["channels"], found.widths, found.depths) == (channels, widths, _DEPTHS):
            return f"MobileViTv2-{multiplier}"
    return ""


_TRAITS = Traits(
    family=NAME,
    attention="attn.out_proj.weight",
    published_name=_published_name,
    custom_name="MobileViTv2",
    default_heads=1,
    preprocessing={"": _TABLE},
)


def _convert_timm(state: State, hints: Hints) -> Converted:  # noqa: ARG001 - namings share one signature
    return Converted(with_batch_counters(state))


NAMINGS: tuple[Naming, ...] = (
    Naming(
        "timm",
        (r"stem\.conv\.weight", r"stages\.\d+\.\d+\.transformer\.\d+\.attn\.qkv_proj\.weight"),
        _convert_timm,
    ),
    Naming(
        "huggingface",
        (
            r"(mobilevitv2\.)?conv_stem\.convolution\.weight",
            r"(mobilevitv2\.)?encoder\.layer\.\d+\.transformer\.layer\.\d+\.attention\.qkv_proj\.convolution\.weight",
        ),
        mobilevit_huggingface.convert_v2,
    ),
    Naming(
        "cvnets",
        (
            r"conv_1\.block\.conv\.weight",
            r"layer_\d+\.\d+\.global_rep\.\d+\.pre_norm_attn\.1\.qkv_proj\.block\.conv\.weight",
        ),
        mobilevit_cvnets.convert_v2,
    ),
)


def infer(state: State, naming: str, hints: Hints) -> ModelSpec:
    """Infers stages and transformers from the shapes; patch and image size from config or table.

    Args:
        state: weights in timm's names.
        naming: ``timm``, ``huggingface`` or ``cvnets``.
        hints: configuration, and the overrides ``patch`` and ``image_size``.

    Raises:
        UnknownArchitecture: shapes that timm's modules cannot be built with.
        WeightsMismatch: a weight without which nothing can be said is missing.
        BadRecipe: an override that does not fit the weights.
    """
    return infer_spec(state, naming, hints, _TRAITS)
