# SPDX-License-Identifier: Apache-2.0
"""The bodies of the published ViTs, and their attention heads, which no shape tells."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from vitedge.records import Origin


@dataclass(frozen=True)
class Shape:
    """Facts that the shapes of the weights tell."""

    width: int
    depth: int
    hidden: int
    """Output channels of the first layer of the MLP."""
    classes: int
    in_channels: int
    patch: int
    """Edge of a patch in pixels, the stem's stride included."""
    tokens: tuple[str, ...]
    registers: int
    stem: tuple[int, ...] | None
    """Blocks per stage of a hybrid's ResNet; None where there is none."""
    stem_patch: int


Body = tuple[int, int, int]
"""Width, depth, and output channels of the MLP's first layer."""

BODIES: Mapping[Body, tuple[int, tuple[int, ...]]] = {
    (64, 6, 192): (2, (16,)),
    (64, 8, 192): (2, (16,)),
    (96, 9, 192): (3, (16,)),
    (96, 9, 288): (3, (16,)),
    (192, 12, 768): (3, (8, 16)),
    (256, 10, 1024): (4, (16,)),
    (256, 14, 1280): (4, (16,)),
    (256, 16, 1280): (4, (16,)),
    (320, 14, 1792): (5, (16,)),
    (384, 12, 1536): (6, (8, 14, 16, 32)),
    (384, 18, 1536): (6, (16,)),
    (384, 36, 1536): (6, (16,)),
    (512, 12, 2048): (8, (16, 32)),
    (512, 20, 2048): (8, (16,)),
    (640, 12, 2560): (10, (16, 32)),
    (768, 12, 3072): (12, (8, 14, 16, 32)),
    (768, 18, 3072): (12, (16,)),
    (832, 21, 2176): (13, (16,)),
    (896, 12, 3584): (14, (16, 32)),
    (896, 18, 2304): (14, (16,)),
    (1024, 24, 2816): (8, (14,)),
    (1024, 24, 4096): (16, (14, 16, 32)),
    (1152, 27, 4304): (16, (14, 16)),
    (1280, 32, 5120): (16, (14, 16)),
    (1408, 40, 6144): (16, (14, 16)),
    (1536, 24, 4096): (12, (14,)),
    (1536, 40, 6144): (16, (16,)),
    (1536, 40, 8192): (24, (14,)),
    (1664, 48, 8192): (16, (14,)),
    (2048, 24, 5632): (16, (14,)),
    (3072, 24, 8192): (24, (14,)),
}
"""Body to its heads and to the patches that it is published with: timm's plain ViTs and DeiTs."""

HYBRIDS: Mapping[tuple[Body, tuple[int, ...]], int] = {
    ((192, 12, 768), ()): 3,
    ((384, 12, 1536), (2, 2, 2, 2)): 6,
    ((768, 12, 3072), (2, 2, 2, 2)): 12,
    ((768, 12, 3072), (3, 4, 9)): 12,
    ((1024, 24, 4096), (3, 4, 6, 3)): 16,
}
"""Body and blocks per stage of the ResNet before it, to the heads."""

_DOUBTS: Mapping[tuple[Body, int, bool], str] = {
    ((384, 12, 1536), 16, True): "MoCo v3's ViT-S has the same shapes and 12 heads (--set heads=12)",
    ((768, 12, 3072), 16, False): "timm's vit_base_patch16_gap_224 has the same shapes and 16 heads (--set heads=16)",
    ((1536, 40, 6144), 16, True): "timm's vit_giant_patch16_radio_v3 has these shapes and 24 heads (--set heads=24)",
}
"""Body, patch, and whether there is a class token, to a published model of these shapes with other heads."""

_NAMED = (
    (r"^vit_base_patch16_gap_224(?:\.|$)", (768, 12, 3072), 16),
    (r"radio_v3", (1536, 40, 6144), 24),
    (r"(?:^|_)(?:tiny|ti)(?:_|\d|$)", (192, 12, 768), 3),
    (r"(?:^|_)(?:small|s|vits\d*)(?:_|\d|$)", (384, 12, 1536), 6),
    (r"(?:^|_)medium(?:_|$)", (512, 12, 2048), 8),
    (r"(?:^|_)(?:base|b|vitb\d*)(?:_|\d|$)", (768, 12, 3072), 12),
    (r"(?:^|_)(?:large|l|vitl\d*)(?:_|\d|$)", (1024, 24, 4096), 16),
    (r"(?:^|_)(?:huge|h)(?:_|\d|$)", (1280, 32, 5120), 16),
)
"""Part of an architecture's name (timm's, DeiT's, MAE's, DINO's) to the body that is called so, and its heads."""
_AMBIGUOUS = "vit_small"
"""DINO calls its ViT-S with 6 heads so, and MoCo v3 its own with 12."""


_SMALL = (384, 12, 1536)
MOCO, DINO = "MoCo v3", "DINO"
"""Methods of pre-training whose weights tell them by their names; they differ in the heads of ViT-S."""


def published_heads(shape: Shape, name: str, pretraining: str = "") -> tuple[int, Origin, str]:
    """Returns the heads of the published model with this body, the origin, and a note or the empty string.

    Args:
        shape: of the weights; the number of classes and the image size are no part of the body.
        name: of the architecture, as a file says it; empty where none does.
        pretraining: `MOCO`, `DINO`, or empty: the method that the names of the weights tell.

    Returns:
        0 heads where no published model has the body.
    """
    body = (shape.width, shape.depth, shape.hidden)
    if shape.stem is None and name and name != _AMBIGUOUS:
        for pattern, called, heads in _NAMED:
            if called == body and re.search(pattern, name):
                return heads, Origin.CONFIG, ""
    if body == _SMALL and pretraining == MOCO:
        told = name == _AMBIGUOUS
        note = "These are MoCo v3's names, whose ViT-S has 12 heads: that is assumed (--set heads=6 or 12)."
        return 12, Origin.CONFIG if told else Origin.ASSUMED, "" if told else note
    if body == _SMALL and pretraining == DINO and name == _AMBIGUOUS:
        return 6, Origin.CONFIG, ""
    if shape.stem is not None:
        return HYBRIDS.get((body, shape.stem), 0), Origin.TABLE, ""
    heads, patches = BODIES.get(body, (0, ()))
    if shape.patch not in patches:
        return 0, Origin.ASSUMED, ""
    doubt = _DOUBTS.get((body, shape.patch, "class" in shape.tokens))
    return heads, Origin.TABLE, f"No file tells the heads: {heads} is published, and {doubt}." if doubt else ""
