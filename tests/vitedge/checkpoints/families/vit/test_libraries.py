# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.seeding import seeded
from tests.vitedge.checkpoints.vit_rebuilding import assert_equal, convert, images_for, rebuild
from vitedge.checkpoints.families.family import Hints
from vitedge.checkpoints.overrides import apply_overrides
from vitedge.records import Origin

SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}


@torch.no_grad()
def test_torchvision_computes_the_same() -> None:
    torchvision = pytest.importorskip("torchvision", reason="pip install torchvision")
    model = seeded(torchvision.models.VisionTransformer(32, 8, 2, 4, 64, 96, num_classes=5))
    module, spec, _ = rebuild(model.state_dict(), Hints(overrides={"heads": (4,)}))
    assert (spec.naming, spec.norm_eps, spec.preprocessing.interpolation) == ("torchvision", 1e-6, "bilinear")
    assert any("do not say how images are resized" in note for note in spec.notes)
    assert_equal(module(images_for(spec)), model(images_for(spec)))


class ClipBlock(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int = 96) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, hidden), "c_proj": nn.Linear(hidden, width)})

    def forward(self, x: Tensor, act: Callable[[Tensor], Tensor]) -> Tensor:
        normed = self.ln_1(x)
        x = x + self.attn(normed, normed, normed, need_weights=False)[0]
        hidden: Tensor = self.mlp["c_proj"](act(self.mlp["c_fc"](self.ln_2(x))))
        return x + hidden


class ClipTower(nn.Module):
    """The visual tower of CLIP (arXiv 2103.00020) under OpenAI's names, which open_clip shares."""

    def __init__(
        self, width: int = 64, heads: int = 4, depth: int = 2, hidden: int = 96, patch: int = 8, cells: int = 16
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.positional_embedding = nn.Parameter(torch.zeros(cells + 1, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        blocks = nn.ModuleList([ClipBlock(width, heads, hidden) for _ in range(depth)])
        self.transformer = nn.ModuleDict({"resblocks": blocks})
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


@torch.no_grad()
def test_a_tower_without_its_first_norm_is_clipas() -> None:
    model = seeded(ClipTower())
    state = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("ln_pre")}
    module, spec, _ = rebuild(state, Hints(overrides={"heads": (4,)}))
    x = model.conv1(images_for(spec)).flatten(2).transpose(1, 2)
    x = torch.cat([model.class_embedding.expand(len(x), 1, -1), x], 1) + model.positional_embedding
    for block in model.transformer["resblocks"]:  # type: ignore[union-attr]
        x = block(x, nn.functional.gelu)
    assert_equal(module(images_for(spec)), model.ln_post(x[:, 1:].mean(1)) @ model.proj)
    assert spec.origins["options.pool"] is Origin.ASSUMED


@pytest.mark.parametrize(
    ("pool", "is_openai", "is_noted"),
    [(None, False, True), ("mean", False, False), ("class", False, False), (None, True, False)],
)
@torch.no_grad()
def test_the_pooling_of_a_published_body_is_noted_and_can_be_said(
    pool: str | None, is_openai: bool, is_noted: bool
) -> None:
    """A tower of ViT-B/32's shapes, whose pooling open_clip lets a training choose; its weights take no memory."""
    with torch.device("meta"):
        model = ClipTower(768, 12, depth=12, hidden=3072, patch=32, cells=49)
    state = {f"visual.{name}": torch.zeros(1).expand(tensor.shape) for name, tensor in model.state_dict().items()}
    state |= {name: torch.tensor(7) for name in ("input_resolution", "context_length", "vocab_size") if is_openai}
    _, spec = convert(state, Hints(overrides={} if pool is None else {"pool": pool}))
    assert any("needs --set pool=mean" in note for note in spec.notes) == is_noted
    assert apply_overrides(spec, {} if pool is None else {"pool": pool}).options["pool"] == (pool or "class")


class MmBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(width, 1e-6), nn.LayerNorm(width, 1e-6)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        layers = nn.ModuleList([nn.ModuleList([nn.Linear(width, 96)]), nn.Linear(96, width)])
        self.ffn = nn.ModuleDict({"layers": layers})

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (4, -1)).transpose(1, 2) for part in self.attn["qkv"](self.ln1(x)).chunk(3, -1))
        attended = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.attn["proj"](attended)
        (first,), second = self.ffn["layers"]  # type: ignore[misc]
        hidden: Tensor = second(nn.functional.gelu(first(self.ln2(x))))  # type: ignore[has-type]
        return x + hidden


class MmViT(nn.Module):
    """The ViT of mmpretrain under its names, of the class token, of the patches' mean, or distilled (DeiT)."""

    def __init__(self, kind: str, width: int = 64) -> None:
        super().__init__()
        self.kind = kind
        tokens = 2 if kind == "distilled" else 1
        backbone: dict[str, nn.Module] = {
            "patch_embed": nn.ModuleDict({"projection": nn.Conv2d(3, width, 8, 8)}),
            "layers": nn.ModuleList([MmBlock(width) for _ in range(2)]),
            "ln2" if kind == "mean" else "ln1": nn.LayerNorm(width, 1e-6),
        }
        self.backbone = nn.ModuleDict(backbone)
        self.backbone.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.backbone.pos_embed = nn.Parameter(torch.zeros(1, 16 + tokens, width))
        heads = {"head": nn.Linear(width, 5)}
        if kind == "distilled":
            self.backbone.dist_token = nn.Parameter(torch.zeros(1, 1, width))
            heads["head_dist"] = nn.Linear(width, 5)
        self.head = nn.ModuleDict({"layers": nn.ModuleDict(heads)})

    def forward(self, image: Tensor) -> Tensor:
        body, heads = self.backbone, self.head["layers"]
        names = ("cls_token", "dist_token") if self.kind == "distilled" else ("cls_token",)
        tokens = [getattr(body, name).expand(len(image), -1, -1) for name in names]
        patches = body["patch_embed"]["projection"](image).flatten(2).transpose(1, 2)  # type: ignore[index]
        x = torch.cat([*tokens, patches], 1) + body.pos_embed
        for block in body["layers"]:  # type: ignore[union-attr]
            x = block(x)
        if self.kind == "mean":
            mean: Tensor = heads["head"](body["ln2"](x[:, 1:].mean(1)))  # type: ignore[index]
            return mean
        x = body["ln1"](x)
        logits: Tensor = heads["head"](x[:, 0])  # type: ignore[index]
        return (logits + heads["head_dist"](x[:, 1])) / 2 if self.kind == "distilled" else logits  # type: ignore[index, no-any-return]


@pytest.mark.parametrize("kind", ["class", "mean", "distilled"])
@torch.no_grad()
def test_mmpretrain_computes_the_same(kind: str) -> None:
    model = seeded(MmViT(kind))
    module, spec, _ = rebuild(model.state_dict(), Hints(overrides={"heads": (4,)}))
    assert_equal(module(images_for(spec)), model(images_for(spec)))
    assert (spec.naming, spec.origins["options.pool"]) == ("mmpretrain", Origin.SHAPE)


VIT_WEIGHTS = [
    ("b_16", "IMAGENET1K_V1"), ("b_32", "IMAGENET1K_V1"), ("l_16", "IMAGENET1K_V1"), ("l_32", "IMAGENET1K_V1"),
    ("b_16", "IMAGENET1K_SWAG_E2E_V1"), ("l_16", "IMAGENET1K_SWAG_E2E_V1"), ("h_14", "IMAGENET1K_SWAG_E2E_V1"),
    ("h_14", "IMAGENET1K_SWAG_LINEAR_V1"),
]  # fmt: skip


@pytest.mark.parametrize(("size", "weights"), VIT_WEIGHTS)
def test_torchvisions_published_transforms(size: str, weights: str) -> None:
    models = pytest.importorskip("torchvision", reason="pip install torchvision").models
    told = getattr(models, f"ViT_{size.upper()}_Weights")[weights].transforms()
    (edge,) = told.crop_size
    with torch.device("meta"):
        state = getattr(models, f"vit_{size}")(image_size=edge).state_dict()
    _, spec = convert(state)
    found = spec.preprocessing
    assert spec.image_size == (edge, edge)
    assert [round(edge / found.crop)] == told.resize_size
    assert (found.interpolation, list(found.mean)) == (told.interpolation.value, told.mean)
    assert not any("do not say how images are resized" in note for note in spec.notes)
    assert any("SWAG" in note for note in spec.notes) == (edge == 224 and size in ("b_16", "l_16"))
