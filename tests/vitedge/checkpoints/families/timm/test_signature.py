# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import timm
import torch

from vitedge.checkpoints.families.timm.signature import index, lookup, shapes_of

HYBRID = "vit_tiny_r_s16_p8_224"


def shapes(name: str, **settings: object) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return shapes_of(timm.create_model(name, **settings).state_dict())


def test_classes_and_channels_are_left_open() -> None:
    for settings in ({}, {"num_classes": 7}, {"num_classes": 0}, {"in_chans": 1}):
        assert lookup(shapes("swinv2_tiny_window8_256", **settings))[0].name.startswith("swinv2_tiny_window")


def test_the_image_size_is_left_open_and_sorts() -> None:
    assert lookup(shapes("deit_small_patch16_224", img_size=384))[0].name == ("vit_small_patch16_384")


def test_the_index_tells_what_a_family_would_build_otherwise() -> None:
    entries = index()
    assert not entries["vit_small_patch16_rope_ape_224"].by_family
    assert entries["vit_small_patch16_224"].by_family
    assert entries[HYBRID].by_family
    quick, exact = entries["vit_base_patch32_clip_quickgelu_224"], entries["vit_base_patch32_clip_224"]
    assert quick.signature.whole == exact.signature.whole
    assert quick.function != exact.function
