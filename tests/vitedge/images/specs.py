# SPDX-License-Identifier: Apache-2.0
"""A spec that says no more than how images are prepared."""

from __future__ import annotations

from vitedge.records import ModelSpec, Preprocessing


def make_spec(size: tuple[int, int], channels: int = 3, crop: float = 0.9, interpolation: str = "bicubic") -> ModelSpec:
    """A small ViT for images of that size (height, width)."""
    return ModelSpec(
        family="vit",
        variant="custom ViT",
        naming="timm",
        image_size=size,
        in_channels=channels,
        classes=10,
        widths=(64,),
        depths=(2,),
        heads=(1,),
        mlp_ratios=(2.0,),
        patch=8,
        tokens=("class",),
        norm_eps=1e-6,
        activation="gelu",
        preprocessing=Preprocessing(
            (0.485, 0.456, 0.406)[:channels], (0.229, 0.224, 0.225)[:channels], interpolation, crop
        ),
    )
