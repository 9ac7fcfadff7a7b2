# SPDX-License-Identifier: Apache-2.0
"""ViT, DeiT and the plain encoders, as their libraries save them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional

from tests.family_files import (
    Case,
    Source,
    compiled,
    copied,
    memory_folder,
    npz,
    of_timm,
    of_timm_encoder,
    of_transformers,
    pickled,
    published_folder,
    safetensors,
    under_model,
    under_state_dict,
    with_average,
)
from tests.seeding import seeded
from tests.vitedge.checkpoints.families.vit import test_google as google
from tests.vitedge.checkpoints.families.vit import test_pytorch as facebook

# 128 channels in two heads of 64: what is assumed where no file says it.
TINY: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 128, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0}
ALIKE: dict[str, Any] = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "image_size": 32,
    "patch_size": 8,
}
PLAIN = {**ALIKE, "intermediate_size": 96, "num_labels": 5}
SCALED = {**ALIKE, "mlp_ratio": 2, "num_labels": 5}


def tiny(name: str = "vit_tiny_patch16_224", classes: int = 5, **settings: Any) -> nn.Module:
    return seeded(timm.create_model(name, **{**TINY, "num_classes": classes, **settings}))


def with_timm(name: str = "vit_tiny_patch16_224", *, resizes: bool = True, **settings: Any) -> Callable[[], Source]:
    return lambda: of_timm(tiny(name, **settings), resizes=resizes)


def encoder(
    extra: dict[str, tuple[int, ...]] | None = None, name: str = "vit_tiny_patch16_224", **settings: Any
) -> Callable[[], Source]:
    """A headless ViT with what only its pre-training uses beside it."""

    def named(module: nn.Module) -> dict[str, Tensor]:
        return {**module.state_dict(), **facebook._random(extra or {})}

    return lambda: of_timm_encoder(tiny(name, classes=0, **settings), names=named, resizes=True)


def with_transformers(model: str, config: str, settings: dict[str, Any]) -> Callable[[], Source]:
    def source() -> Source:
        return of_transformers(seeded(getattr(transformers, model)(getattr(transformers, config)(**settings))))

    return source


def mae_of_transformers() -> Source:
    decoder = {
        "decoder_hidden_size": 16,
        "decoder_num_hidden_layers": 1,
        "decoder_num_attention_heads": 2,
        "decoder_intermediate_size": 16,
    }
    settings = {**ALIKE, "intermediate_size": 96, **decoder, "mask_ratio": 0.0}
    model = seeded(transformers.ViTMAEForPreTraining(transformers.ViTMAEConfig(**settings)))

    def forward(images: Tensor) -> Tensor:
        in_order = torch.arange(16.0).expand(len(images), -1)
        tokens: Tensor = model.vit(images, noise=in_order).last_hidden_state
        return tokens

    return Source(copied(model.state_dict()), forward, module=model)


def with_representation() -> Source:
    """timm before 0.6 kept the representation layer between the pooling and the head."""
    base: Any = tiny()
    more = facebook._random({"pre_logits.fc.weight": (48, 128), "pre_logits.fc.bias": (48,), "head.weight": (5, 48)})

    def forward(images: Tensor) -> Tensor:
        pooled = base.forward_head(base.forward_features(images), pre_logits=True)
        hidden = functional.linear(pooled, more["pre_logits.fc.weight"], more["pre_logits.fc.bias"]).tanh()
        return functional.linear(hidden, more["head.weight"], base.head.bias)

    return Source({**base.state_dict(), **more}, forward)


def from_google(arrays: Callable[[], google.Arrays], size: int, **settings: Any) -> Callable[[], Source]:
    """Google's arrays, read by timm's own reader of such files."""

    def source() -> Source:
        state = arrays()
        values: dict[str, Any] = {
            "img_size": size,
            "depth": google.DEPTH,
            "embed_dim": google.WIDTH,
            "num_heads": google.HEADS,
        }
        ratio = google.HIDDEN / google.WIDTH
        base = {"name": "vit_tiny_patch16_224", **settings}
        if base["name"] == "vit_tiny_patch16_224":
            values["patch_size"] = 8
        module = timm.create_model(base.pop("name"), **values, **base, mlp_ratio=ratio, num_classes=google.CLASSES)
        return Source(state, _reading(module, state))

    return source


def _reading(module: Any, state: google.Arrays) -> Callable[[Tensor], Tensor]:
    with tempfile.TemporaryDirectory() as folder:  # timm reads Google's arrays from files alone
        module.load_pretrained(str(npz(state, Path(folder))))
    reader: nn.Module = module.eval()
    return reader


def deit3_names(module: nn.Module) -> dict[str, Tensor]:
    renamed = ((".ls1.gamma", ".gamma_1"), (".ls2.gamma", ".gamma_2"))
    state = dict(module.state_dict())
    for timms, facebooks in renamed:
        state = {name.replace(timms, facebooks): tensor for name, tensor in state.items()}
    return state


def teacher_and_student(state: Any) -> dict[str, Any]:
    """DINO's whole training file: the projection heads lie beside the backbones."""

    def named(backbone: str, head: str, factor: float) -> dict[str, Tensor]:
        return {f"{head if name.startswith('head.') else backbone}{name}": factor * state[name] for name in state}

    return {"student": named("module.backbone.", "module.", 0.5), "teacher": named("backbone.", "", 1.0), "epoch": 3}


def dinov2(registers: int, *, chunked: bool) -> Callable[[], Source]:
    """Facebook's names; the position of the class token is an entry of its own, in timm it is a part of the token."""

    def source() -> Source:
        name = "vit_small_patch14_reg4_dinov2" if registers else "vit_small_patch14_dinov2"
        module: Any = tiny(name, classes=0, img_size=56, patch_size=14)
        state = facebook._dinov2_names(module.state_dict(), chunked=chunked)
        if registers:
            module.cls_token.data += 0.1
        return Source(copied(state), of_timm_encoder(module).forward)

    return source


DISTILLED = "deit_tiny_distilled_patch16_224"
HYBRID = "vit_tiny_r_s16_p8_224"

VIT_CASES: dict[str, Case] = {
    "vit timm": Case("vit", "timm", with_timm(), pickled(under_model), 32, 48, whole=True),
    "vit timm legacy pickle": Case("vit", "timm", with_timm(), pickled(under_state_dict, legacy=True), 32, 40),
    "vit timm pre_logits": Case("vit", "timm", with_representation, pickled(legacy=True), 32, 48, whole=True),
    "vit hugging face on disk": Case(
        "vit",
        "huggingface",
        with_transformers("ViTForImageClassification", "ViTConfig", PLAIN),
        published_folder(),
        32,
        48,
    ),
    "vit hugging face sharded": Case(
        "vit",
        "huggingface",
        with_transformers("ViTForImageClassification", "ViTConfig", PLAIN),
        published_folder("40KB"),
        32,
        48,
    ),
    "vit hugging face in memory": Case(
        "vit",
        "huggingface",
        with_transformers("ViTForImageClassification", "ViTConfig", PLAIN),
        memory_folder(),
        32,
        48,
    ),
    "vit google": Case("vit", "google", from_google(google.flax_arrays, 32), npz, 32, 48),
    "vit google big_vision": Case(
        "vit", "google", from_google(google.big_vision_arrays, 32, no_embed_class=True), npz, 32, 48
    ),
    "vit hybrid": Case(
        "vit",
        "timm",
        with_timm(HYBRID, img_size=64, resizes=False),
        safetensors(),
        64,
        96,
        whole=True,
    ),
    "vit hybrid google": Case(
        "vit",
        "google",
        from_google(lambda: google.hybrid_arrays((), 8, positions=4), 64, name=HYBRID),
        npz,
        64,
        96,
    ),
    "deit": Case("vit", "timm", with_timm("deit_tiny_patch16_224"), pickled(with_average), 32, 64),
    "deit distilled timm": Case("vit", "timm", with_timm(DISTILLED), pickled(under_model), 32, 48, whole=True),
    "deit distilled hugging face": Case(
        "vit",
        "huggingface",
        with_transformers("DeiTForImageClassificationWithTeacher", "DeiTConfig", PLAIN),
        published_folder(),
        32,
        48,
    ),
    "deit-iii facebook": Case(
        "vit",
        "deit3",
        lambda: of_timm(tiny("deit3_small_patch16_224"), names=deit3_names, resizes=True),
        pickled(under_model),
        32,
        48,
        whole=True,
    ),
    "deit-iii timm": Case("vit", "timm", with_timm("deit3_small_patch16_224"), safetensors(compiled), 32, 48),
    "mae": Case("vit", "mae", encoder(facebook.MAE_DECODER), pickled(under_model), 32, 48, classes=0, whole=True),
    "mae hugging face": Case("vit", "huggingface", mae_of_transformers, published_folder(), 32, 48, classes=0),
    "hpm": Case("vit", "hpm", encoder(facebook.HPM_DECODER), pickled(under_state_dict), 32, 48, classes=0),
    "dino": Case("vit", "dino", encoder(facebook.DINO_HEAD), pickled(teacher_and_student), 32, 48, classes=0),
    "dinov2 facebook": Case("vit", "dinov2", dinov2(0, chunked=False), pickled(), 56, 84, classes=0, whole=True),
    "dinov2 facebook registers": Case(
        "vit", "dinov2", dinov2(4, chunked=True), pickled(lambda state: {"teacher": state}), 56, 84, classes=0
    ),
    "dinov2 hugging face": Case(
        "vit", "huggingface", with_transformers("Dinov2Model", "Dinov2Config", SCALED), published_folder(), 32, 48, 0
    ),
    "dinov2 hugging face registers": Case(
        "vit",
        "huggingface",
        with_transformers("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", SCALED),
        memory_folder(),
        32,
        48,
        classes=0,
    ),
}
"""Name to checkpoint."""
