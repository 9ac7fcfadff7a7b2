# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch

import vitedge
from vitedge.errors import WeightsMismatch

MODELS = {
    "vit": ("vit_tiny_patch16_224", "blocks.0.attn.qkv.weight"),
    "pit": ("pit_ti_224", "transformers.0.blocks.0.attn.qkv.weight"),
    "swin": ("swin_tiny_patch4_window7_224", "layers.0.blocks.0.attn.relative_position_bias_table"),
}


@pytest.mark.parametrize("kind", sorted(MODELS))
def test_a_flattened_weight_is_refused_by_its_name(kind: str, tmp_path: Path) -> None:
    name, weight = MODELS[kind]
    state = timm.create_model(name, num_classes=3).state_dict()
    state[weight] = state[weight].flatten()
    torch.save(state, tmp_path / "flat.pth")
    with pytest.raises(WeightsMismatch, match=f"{weight} has 2"):
        vitedge.inspect(tmp_path / "flat.pth")
