# SPDX-License-Identifier: Apache-2.0
"""Facts in files as training scripts write them, held to timm's own logits."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from timm.models.pit import PoolingVisionTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import vitedge
from tests.seeding import seeded
from vitedge.checkpoints.files.facts import facts_of
from vitedge.records import Origin

State = dict[str, torch.Tensor]

WRAPPINGS: dict[str, Callable[[State, dict[str, Any]], Any]] = {
    "args namespace": lambda state, facts: {"model": state, "args": argparse.Namespace(lr=1e-3, **facts)},
    "args dict": lambda state, facts: {"model": state, "args": {"batch_size": 4, **facts}},
    "model_kwargs": lambda state, facts: {"state_dict": state, "args": argparse.Namespace(model_kwargs=facts)},
    "hyper_parameters": lambda state, facts: {"state_dict": state, "hyper_parameters": {"model": facts}},
    "config": lambda state, facts: {"model": state, "config": {"MODEL": {key.upper(): facts[key] for key in facts}}},
    "beside": lambda state, facts: {"model": state, **facts},
}


def vit() -> nn.Module:
    return seeded(VisionTransformer(img_size=32, patch_size=8, embed_dim=96, depth=1, num_heads=6, num_classes=5))


def pit() -> nn.Module:
    settings = {"img_size": 32, "patch_size": 8, "stride": 4, "mlp_ratio": 2, "num_classes": 5}
    return seeded(PoolingVisionTransformer(base_dims=(16, 16, 16), depth=(1, 1, 1), heads=(1, 2, 4), **settings))


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize(("make", "heads"), [(vit, 6), (pit, [1, 2, 4])])
def test_heads_of_a_training_file(make: Callable[[], nn.Module], heads: Any, wrapping: str, tmp_path: Path) -> None:
    module = make()
    facts = {"num_heads": heads, "img_size": 32, "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "crop_pct": 0.8}
    torch.save(WRAPPINGS[wrapping](module.state_dict(), facts), tmp_path / "trained.pth")
    held_to(module, tmp_path / "trained.pth")


def test_metadata_of_safetensors(tmp_path: Path) -> None:
    module = pit()
    facts = {"num_heads": "1,2,4", "img_size": "32", "mean": "[0.1, 0.2, 0.3]", "std": "0.4,0.5,0.6", "crop_pct": "0.8"}
    save_file(module.state_dict(), tmp_path / "trained.safetensors", metadata=facts)
    held_to(module, tmp_path / "trained.safetensors")


def held_to(module: nn.Module, path: Path) -> None:
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    loaded = vitedge.load(str(path))
    with torch.no_grad():
        assert torch.allclose(loaded.module(images), module(images), atol=1e-5)
    spec = vitedge.inspect(str(path)).spec
    assert spec.origins["heads"] is Origin.CONFIG
    assert (spec.preprocessing.mean, spec.preprocessing.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert spec.preprocessing.crop == 0.8


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"input_size": (3, 64, 96)}, {"input_size": (64, 96)}),
        ({"input_size": None, "img_size": 48, "mean": None, "interpolation": ""}, {"input_size": (48, 48)}),
        ({"num_heads": 0, "crop_pct": "wide", "std": [0.0, 1.0, 1.0]}, {}),
        ({"num_heads": True, "decoder_num_heads": 16}, {}),
        ({"num_heads": 4, "model_kwargs": {"num_heads": 8}}, {"num_heads": 4}),
        ({"model": "vit_small_patch16_224"}, {"architecture": "vit_small_patch16_224"}),
    ],
)
def test_reading_of_values(settings: dict[str, Any], found: dict[str, Any]) -> None:
    assert facts_of({"args": settings}, {}) == found
    texts = {name: json.dumps(value) for name, value in settings.items() if not isinstance(value, dict)}
    assert facts_of({}, texts) == found


def test_weights_are_no_facts() -> None:
    assert facts_of({"mean": torch.ones(3), "arch": {"mean": torch.ones(3)}, "heads": torch.ones(1)}, {}) == {}
