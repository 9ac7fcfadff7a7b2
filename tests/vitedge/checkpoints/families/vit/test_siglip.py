# SPDX-License-Identifier: Apache-2.0
"""Tests of `siglip`, by transformers: encoder, classifier, and the encoder within a model of images and text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

import vitedge
from tests.seeding import seeded
from vitedge.records import Origin

VISION: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
TEXT = {"hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 1, "num_attention_heads": 4, "vocab_size": 50}
TEXT |= {"bos_token_id": 1, "eos_token_id": 2}


def made(name: str, **changes: Any) -> Any:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    vision = {**VISION, **changes}
    if name == "SiglipVisionModel":
        return seeded(transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**vision)))
    config = transformers.SiglipConfig(vision_config=vision, text_config=TEXT, num_labels=5)
    return seeded(getattr(transformers, name)(config))


def written(model: nn.Module, folder: Path, form: str) -> str:
    if form == "folder":
        model.save_pretrained(folder)  # type: ignore[operator]
        return str(folder)
    torch.save(model.state_dict(), folder / "weights.pth")
    return str(folder / "weights.pth")


@pytest.mark.parametrize("changes", [{}, {"hidden_act": "gelu", "layer_norm_eps": 1e-2}, {"num_channels": 1}])
@pytest.mark.parametrize("form", ["folder", "file"])
@pytest.mark.parametrize("name", ["SiglipVisionModel", "SiglipForImageClassification", "SiglipModel"])
@torch.no_grad()
def test_siglip_computes_the_same(name: str, form: str, changes: dict[str, Any], tmp_path: Path) -> None:
    model = made(name, **changes)
    told = {"hidden_act": "activation", "layer_norm_eps": "norm_eps"}
    overrides = {"heads": 4, **{told[key]: value for key, value in changes.items() if key in told}}
    reference = vitedge.load(written(model, tmp_path, form), overrides={} if form == "folder" else overrides)
    images = torch.randn(2, changes.get("num_channels", 3), 32, 32, generator=torch.Generator().manual_seed(5))
    if name == "SiglipForImageClassification":
        pairs = [(reference.module(images), model(images).logits)]
    else:
        tower = model if name == "SiglipVisionModel" else model.vision_model
        theirs = tower(images)
        ours = reference.deployed(uint8=False, features=True)(images)
        pairs = list(zip(ours, (theirs.last_hidden_state, theirs.pooler_output), strict=True))
    for found, expected in pairs:
        assert found.shape == expected.shape
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    spec = reference.spec
    assert (spec.naming, spec.preprocessing.crop_mode) == ("huggingface-siglip", "squash")
    if form == "folder":
        assert spec.origins["heads"] is spec.origins["activation"] is Origin.CONFIG
