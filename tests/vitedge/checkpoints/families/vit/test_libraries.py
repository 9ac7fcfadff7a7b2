# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.seeding import seeded
from tests.vitedge.checkpoints.vit_rebuilding import assert_equal, images_for, rebuild
from vitedge.checkpoints.families.family import Hints
from vitedge.records import Origin

SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}


@torch.no_grad()
def test_torchvision_computes_the_same() -> None:
    torchvision = pytest.importorskip("torchvision", reason="pip install torchvision")
    model = seeded(torchvision.models.VisionTransformer(32, 8, 2, 4, 64, 96, num_classes=5))
    module, spec, _ = rebuild(model.state_dict(), Hints(overrides={"heads": (4,)}))
    assert (spec.naming, spec.norm_eps, spec.preprocessing.interpolation) == ("torchvision", 1e-6, "bilinear")
    assert_equal(module(images_for(spec)), model(images_for(spec)))


class ClipBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, 96), "c_proj": nn.Linear(96, width)})

    def forward(self, x: Tensor, act: Callable[[Tensor], Tensor]) -> Tensor:
        normed = self.ln_1(x)
        x = x + self.attn(normed, normed, normed, need_weights=False)[0]
        hidden: Tensor = self.mlp["c_proj"](act(self.mlp["c_fc"](self.ln_2(x))))
        return x + hidden


class ClipTower(nn.Module):
    """The visual tower of CLIP (arXiv 2103.00020) under OpenAI's names, which open_clip shares."""

    def __init__(self, width: int = 64, heads: int = 4) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 8, 8, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.positional_embedding = nn.Parameter(torch.zeros(17, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = nn.ModuleDict({"resblocks": nn.ModuleList([ClipBlock(width, heads) for _ in range(2)])})
        self.proj = nn.Parameter(torch.zeros(width, 24))

    def forward(self, image: Tensor, act: Callable[[Tensor], Tensor]) -> Tensor:
        patches = self.conv1(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(image), 1, -1), patches], 1) + self.positional_embedding
        x = self.ln_pre(x)
        for block in self.transformer["resblocks"]:  # type: ignore[union-attr]
            x = block(x, act)
        embedding: Tensor = self.ln_post(x[:, 0]) @ self.proj
        return embedding


@pytest.mark.parametrize("is_openai", [True, False])
@torch.no_grad()
def test_the_visual_tower_of_clip_gives_its_embedding(is_openai: bool) -> None:
    model = seeded(ClipTower())
    state = {f"visual.{name}": tensor for name, tensor in model.state_dict().items()}
    state |= {"logit_scale": torch.tensor(1.0), "transformer.resblocks.0.ln_1.weight": torch.ones(8)}
    if is_openai:
        state |= {name: torch.tensor(7) for name in ("input_resolution", "context_length", "vocab_size")}
    module, spec, converted = rebuild(state, Hints(overrides={"heads": (4,)}))
    act = (lambda x: x * torch.sigmoid(1.702 * x)) if is_openai else nn.functional.gelu
    assert_equal(module(images_for(spec)), model(images_for(spec), act))
    assert (spec.naming, spec.norm_eps, spec.classes) == ("clip", 1e-5, 24)
    assert (spec.origins["activation"] is Origin.ASSUMED) != is_openai
    assert any("quick_gelu" in note for note in spec.notes) != is_openai
    assert {"logit_scale", "transformer.resblocks.0.ln_1.weight"} <= set(converted.dropped)


@pytest.mark.parametrize("changes", [{}, {"hidden_act": "gelu"}, {"layer_norm_eps": 1e-2}])
@torch.no_grad()
def test_clip_of_transformers_computes_the_same(changes: dict[str, Any]) -> None:
    transformers = pytest.importorskip("transformers", reason="pip install transformers")
    config = transformers.CLIPVisionConfig(**SIZES, image_size=32, patch_size=8, projection_dim=24, **changes)
    model = seeded(transformers.CLIPVisionModelWithProjection(config))
    module, spec, _ = rebuild(model.state_dict(), Hints(config.to_dict()))
    assert spec.naming == "huggingface-clip"
    assert_equal(module(images_for(spec)), model(images_for(spec)).image_embeds)
