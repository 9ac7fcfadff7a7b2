# SPDX-License-Identifier: Apache-2.0
"""Tiny models of every family that can be pruned, and images for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from timm.models.beit import Beit
from timm.models.deit import VisionTransformerDistilled
from timm.models.pit import PoolingVisionTransformer
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from benchmarks.train_demo import make_mobilevit
from tests.seeding import seeded
from vitedge.checkpoints.read import read
from vitedge.models.reference import Reference, load_reference
from vitedge.pruning.draft import Batches, Draft

_COLUMN: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 48,
    "depth": 2,
    "num_heads": 3,
    "num_classes": 5,
    "mlp_ratio": 2,
}


def vit() -> nn.Module:
    return VisionTransformer(**_COLUMN, init_values=0.5)


def deit() -> nn.Module:
    return VisionTransformerDistilled(**_COLUMN)


def beit() -> nn.Module:
    return Beit(**_COLUMN, init_values=0.1, use_abs_pos_emb=False, use_rel_pos_bias=True)


def pit() -> nn.Module:
    return PoolingVisionTransformer(
        img_size=32, patch_size=8, stride=4, base_dims=(12, 12), depth=(2, 1), heads=(2, 4), mlp_ratio=2, num_classes=5
    )


def swin() -> nn.Module:
    return SwinTransformer(
        img_size=32, patch_size=4, window_size=4, embed_dim=24, depths=(2, 2), num_heads=(2, 4), num_classes=5
    )


FAMILIES = {"vit": vit, "deit": deit, "beit": beit, "pit": pit, "swin": swin, "mobilevit": make_mobilevit}
_FACTS = {
    "vit": {"heads": (3,)},
    "deit": {"heads": (3,)},
    "pit": {"heads": (2, 4), "image_size": (32, 32)},
    "mobilevit": {"heads": (4, 4, 4), "image_size": (64, 64)},
}


def written(kind: str, folder: Path) -> Path:
    """Writes a tiny seeded model as timm names its weights."""
    state = seeded(FAMILIES[kind]()).state_dict()
    path = folder / f"{kind}.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    return path


def facts(kind: str) -> dict[str, Any]:
    """Returns what the weights do not tell."""
    return dict(_FACTS.get(kind, {}))


def loaded(kind: str, folder: Path) -> Reference:
    """Returns the tiny model as vitedge reads it."""
    return load_reference(read(str(written(kind, folder)), overrides=facts(kind)))


def pixels(reference: Reference, count: int = 24) -> NDArray[np.uint8]:
    """Returns images of the model's size: smooth, so that they differ in more than noise."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, reference.spec.in_channels, 4, 4, generator=generator)
    fine = nn.functional.interpolate(coarse, size=reference.spec.image_size, mode="bilinear")
    return (fine * 255).to(torch.uint8).numpy()


def draft(reference: Reference, count: int = 24) -> Draft:
    """Returns a draft of a model, with images."""
    return Draft.of(reference, Batches(pixels(reference, count), reference.spec.preprocessing))
