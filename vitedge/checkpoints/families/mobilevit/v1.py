# SPDX-License-Identifier: Apache-2.0
"""MobileViT v1 (Mehta and Rastegari, 2021, arXiv 2110.02178). Its options are listed in `structure`."""

from __future__ import annotations

from vitedge.checkpoints.families.family import Converted, Hints, Naming, State
from vitedge.checkpoints.families.mobilevit import cvnets as mobilevit_cvnets
from vitedge.checkpoints.families.mobilevit import huggingface as mobilevit_huggingface
from vitedge.checkpoints.families.mobilevit.structure import MobileViTStructure, Traits, infer_spec
from vitedge.checkpoints.families.renaming import with_batch_counters
from vitedge.records import ModelSpec, Preprocessing

NAME = "mobilevit"
TITLE = "MobileViT v1"

PUBLISHED: dict[tuple[tuple[int, ...], ...], str] = {
    ((16, 24, 48, 64, 80), (64, 80, 96), (2, 4, 3)): "MobileViT-XXS",
    ((32, 48, 64, 80, 96), (96, 120, 144), (2, 4, 3)): "MobileViT-XS",
    ((32, 64, 96, 128, 160), (144, 192, 240), (2, 4, 3)): "MobileViT-S",
}
"""Channels of the stages, widths and depths of the transformers."""

# cvnets 0.1 trained on images that OpenCV had read, blue first, and evaluated at 256 of 288 pixels; Hugging Face's
# processor flips for that reason. timm publishes the same weights and feeds them RGB, and so is its accuracy measured.
_CVNETS = Preprocessing(
    mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), interpolation="bilinear", crop=256 / 288, channel_order="bgr"
)
_TIMM = Preprocessing(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), interpolation="bicubic", crop=0.9)


def _published_name(found: MobileViTStructure) -> str:
    return PUBLISHED.get((found.options["channels"], found.widths, found.depths), "")


_TRAITS = Traits(
    family=NAME,
    attention="attn.qkv.weight",
    published_name=_published_name,
    custom_name="MobileViT",
    default_heads=4,
    preprocessing={"": _TIMM, "cvnets": _CVNETS, "huggingface": _CVNETS},
)


def _convert_timm(state: State, hints: Hints) -> Converted:  # noqa: ARG001 - namings share one signature
    return Converted(with_batch_counters(state))


NAMINGS: tuple[Naming, ...] = (
    Naming(
        "timm",
        (r"stem\.conv\.weight", r"stages\.\d+\.\d+\.transformer\.\d+\.attn\.qkv\.weight"),
        _convert_timm,
    ),
    Naming(
        "huggingface",
        (
            r"(mobilevit\.)?conv_stem\.convolution\.weight",
            r"(mobilevit\.)?encoder\.layer\.\d+\.transformer\.layer\.\d+\.attention\.attention\.query\.weight",
        ),
        mobilevit_huggingface.convert_v1,
    ),
    Naming(
        "cvnets",
        (r"conv_1\.block\.conv\.weight", r"layer_\d+\.\d+\.global_rep\.\d+\.pre_norm_mha\.1\.qkv_proj\.weight"),
        mobilevit_cvnets.convert_v1,
    ),
)


def infer(state: State, naming: str, hints: Hints) -> ModelSpec:
    """Infers stages and transformers from the shapes; heads, patch and image size from config or table.

    Args:
        state: weights in timm's names.
        naming: ``timm``, ``huggingface`` or ``cvnets``; the channel order follows from it.
        hints: configuration, and the overrides ``heads``, ``patch`` and ``image_size``.

    Raises:
        UnknownArchitecture: shapes that timm's modules cannot be built with.
        WeightsMismatch: a weight without which nothing can be said is missing.
        BadRecipe: an override that does not fit the weights.
    """
    return infer_spec(state, naming, hints, _TRAITS)
