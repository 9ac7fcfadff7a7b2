# SPDX-License-Identifier: Apache-2.0
"""What Facebook, HPM and timm call the weights is written out here by hand; timm's own loading is the other side."""

from collections.abc import Mapping
from typing import Any

import pytest
import timm
import torch
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import Tensor, nn
from torch.nn import functional

from tests.seeding import seeded
from tests.vitedge.checkpoints.vit_rebuilding import assert_equal, images_for, naming_of, rebuild
from vitedge.models import vit as builder

TINY: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 128,
    "depth": 2,
    "num_heads": 2,
    "mlp_ratio": 2.0,
    "num_classes": 5,
}
# 128 channels: without a configuration two heads of 64 are what the converter assumes, too.
HEADLESS = {**TINY, "num_classes": 0}


def _timm(name: str = "vit_tiny_patch16_224", **settings: Any) -> nn.Module:
    return seeded(timm.create_model(name, **{**TINY, **settings}))


def _random(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(11)
    return {name: 0.2 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


MAE_DECODER = {
    "mask_token": (1, 1, 16),
    "decoder_pos_embed": (1, 17, 16),
    "decoder_embed.weight": (16, 128),
    "decoder_embed.bias": (16,),
    "decoder_blocks.0.attn.qkv.weight": (48, 16),
    "decoder_blocks.0.mlp.fc1.bias": (64,),
    "decoder_norm.weight": (16,),
    "decoder_pred.weight": (192, 16),
}
HPM_DECODER = {
    **MAE_DECODER,
    "vis_mask_token": (1, 1, 128),
    "decoder_blocks_losspred.0.attn.qkv.weight": (48, 16),
    "decoder_norm_losspred.weight": (16,),
    "decoder_pred_losspred.weight": (1, 16),
    "saliency_model.conv.weight": (4, 3, 3, 3),
}
DINO_HEAD = {
    "head.mlp.0.weight": (32, 128),
    "head.mlp.0.bias": (32,),
    "head.mlp.2.weight": (32, 32),
    "head.last_layer.weight_g": (64, 1),
    "head.last_layer.weight_v": (64, 32),
}

TIMM_MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("vit_tiny_patch16_224", {}),
    "vit without qkv biases": ("vit_tiny_patch16_224", {"qkv_bias": False}),
    "vit with query and key norms": ("vit_tiny_patch16_224", {"qk_norm": True}),
    "vit one channel": ("vit_tiny_patch16_224", {"in_chans": 1}),
    "vit encoder": ("vit_tiny_patch16_224", {"num_classes": 0}),
    "vit without a final norm": ("vit_tiny_patch16_224", {"final_norm": False}),
    "vit mean": ("vit_medium_patch16_gap_256", {}),
    "vit mean registers": ("vit_medium_patch16_reg4_gap_256", {}),
    "mae fine-tuned": ("vit_tiny_patch16_224", {"global_pool": "avg"}),
    "clip": ("vit_base_patch32_clip_224", {}),
    "deit distilled": ("deit_tiny_distilled_patch16_224", {}),
    "deit-iii": ("deit3_small_patch16_224", {}),
    "dinov2": ("vit_small_patch14_dinov2", {"num_classes": 0}),
    "dinov2 registers": ("vit_small_patch14_reg4_dinov2", {"num_classes": 0}),
    "dinov2 giant": ("vit_giant_patch14_dinov2", {"num_classes": 0}),
}


@pytest.mark.parametrize("case", TIMM_MODELS)
@torch.inference_mode()
def test_timms_own_models(case: str) -> None:
    name, settings = TIMM_MODELS[case]
    source = _timm(name, **settings)
    module, spec, converted = rebuild(source.state_dict())
    images = images_for(spec)
    assert spec.naming == "timm"
    assert not converted.dropped
    assert_equal(module(images), source(images))


@pytest.mark.parametrize(("name", "size"), [("vit_base_r50_s16_224", 32), ("vit_tiny_r_s16_p8_224", 64)])
@torch.inference_mode()
def test_hybrids_of_timm(name: str, size: int) -> None:
    patch = 1 if "r50" in name else 8
    source = _timm(name, img_size=size, patch_size=patch)
    module, spec, _ = rebuild(source.state_dict())
    images = images_for(spec)
    assert spec.image_size == (size, size)
    assert spec.patch == (16 if "r50" in name else 32)
    assert_equal(module(images), source(images))


@pytest.mark.parametrize(
    ("naming", "extra"),
    [("mae", MAE_DECODER), ("hpm", HPM_DECODER), ("dino", DINO_HEAD)],
    ids=lambda value: str(value)[:4],
)
@pytest.mark.parametrize("prefix", ["", "backbone."])
@torch.inference_mode()
def test_encoders_lose_what_only_pre_training_uses(naming: str, extra: dict[str, tuple[int, ...]], prefix: str) -> None:
    source = _timm(num_classes=0)
    state = {f"{prefix}{name}": tensor for name, tensor in source.state_dict().items()}
    module, spec, converted = rebuild({**state, **_random(extra)})
    images = images_for(spec)
    assert naming_of({**state, **extra}) == spec.naming == naming
    assert spec.variant == f"custom {naming.upper()} ViT (width 128, depth 2, heads 2)/8 encoder"
    assert set(converted.dropped) == set(extra)
    assert all(converted.dropped.values())
    assert_equal(module(images), source(images))
    assert_equal(builder.features(module, images)[0], source.forward_features(images))


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize("swiglu", [False, True])
@torch.inference_mode()
def test_dinov2_of_facebook(chunked: bool, registers: int, swiglu: bool) -> None:
    name = "vit_giant_patch14_reg4_dinov2" if swiglu else "vit_small_patch14_reg4_dinov2"
    name = name if registers else name.replace("_reg4", "")
    source = _timm(name, num_classes=0, mlp_ratio=2.5, depth=4)
    facebook = _dinov2_names(source.state_dict(), chunked=chunked)
    theirs = checkpoint_filter_fn(_dinov2_names(source.state_dict(), chunked=False), source)
    source.load_state_dict(theirs)
    module, spec, converted = rebuild(facebook)
    images = images_for(spec)
    assert spec.naming == "dinov2"
    assert list(converted.dropped) == ["mask_token"]
    assert spec.options["mlp"] == ("swiglu" if swiglu else "plain")
    assert_equal(module(images), source(images))
    tokens, pooled = builder.features(module, images)
    assert tokens.shape == (2, 1 + registers + 16, 128)
    assert torch.equal(pooled, tokens[:, 0])


def _dinov2_names(state: Mapping[str, Tensor], *, chunked: bool) -> dict[str, Tensor]:
    """Facebook's names, with two blocks a chunk: the registers have no position, the class token has one."""
    swiglu = state["blocks.0.mlp.fc2.weight"].shape[1] != state["blocks.0.mlp.fc1.weight"].shape[0]
    named: dict[str, Tensor] = {"mask_token": torch.zeros(1, 128)}
    for name, tensor in state.items():
        if name.startswith("blocks."):
            _, index, rest = name.split(".", 2)
            if swiglu:
                rest = rest.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3")
            named[f"blocks.{int(index) // 2}.{index}.{rest}" if chunked else f"blocks.{index}.{rest}"] = tensor
        elif name == "reg_token":
            named["register_tokens"] = tensor
        elif name == "pos_embed" and tensor.shape[1] == 16:
            named[name] = torch.cat([torch.full((1, 1, 128), 0.1), tensor], dim=1)
        else:
            named[name] = tensor
    return named


@torch.inference_mode()
def test_deit_iii_of_facebook() -> None:
    source = _timm("deit3_small_patch16_224")
    facebook = {
        name.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): tensor
        for name, tensor in source.state_dict().items()
    }
    module, spec, _ = rebuild(facebook)
    images = images_for(spec)
    assert spec.naming == "deit3"
    assert spec.variant == "custom DeiT-III (width 128, depth 2, heads 2)/8"
    assert spec.options["position_prefix"] is False
    assert_equal(module(images), source(images))


@torch.inference_mode()
def test_the_representation_layer_of_old_timm_is_computed() -> None:
    source = _timm()
    more = _random({"pre_logits.fc.weight": (48, 128), "pre_logits.fc.bias": (48,), "head.weight": (5, 48)})
    module, spec, _ = rebuild({**source.state_dict(), **more})
    images = images_for(spec)
    pooled = source.forward_head(source.forward_features(images), pre_logits=True)
    hidden = torch.tanh(functional.linear(pooled, more["pre_logits.fc.weight"], more["pre_logits.fc.bias"]))
    assert_equal(module(images), functional.linear(hidden, more["head.weight"], source.head.bias))


@torch.inference_mode()
def test_the_batch_norm_of_a_linear_probe_is_folded() -> None:
    source = _timm()
    probe = nn.BatchNorm1d(128, affine=False, eps=1e-6)
    probe.running_mean.normal_()
    probe.running_var.uniform_(0.5, 2)
    probe.eval()
    state = {name: tensor for name, tensor in source.state_dict().items() if not name.startswith("head.")}
    state |= {f"head.0.{name}": tensor for name, tensor in probe.state_dict().items()}
    state |= {"head.1.weight": source.head.weight, "head.1.bias": source.head.bias}
    module, spec, _ = rebuild(state)
    images = images_for(spec)
    pooled = source.forward_head(source.forward_features(images), pre_logits=True)
    assert_equal(module(images), source.head(probe(pooled)))


@torch.inference_mode()
def test_a_distillation_token_without_its_head_is_kept_in_the_sequence() -> None:
    source = _timm("deit_tiny_distilled_patch16_224")
    state = {name: tensor for name, tensor in source.state_dict().items() if not name.startswith("head_dist.")}
    module, spec, _ = rebuild(state)
    images = images_for(spec)
    assert spec.tokens == ("class", "distillation")
    assert_equal(module(images), source.head(source.forward_features(images)[:, 0]))


def test_a_missing_weight_and_one_too_many_reach_the_strict_check() -> None:
    state = _timm().state_dict()
    lacking = {name: tensor for name, tensor in state.items() if name != "blocks.1.mlp.fc2.bias"}
    with pytest.raises(RuntimeError, match=r"Missing key.*blocks\.1\.mlp\.fc2\.bias"):
        rebuild(lacking)
    with pytest.raises(RuntimeError, match=r"Unexpected key.*blocks\.1\.adapter\.weight"):
        rebuild({**state, "blocks.1.adapter.weight": torch.zeros(2)})
    with pytest.raises(RuntimeError, match=r"size mismatch for blocks\.1\.mlp\.fc1\.weight"):
        rebuild({**state, "blocks.1.mlp.fc1.weight": torch.zeros(3, 128)})


def test_half_a_linear_probe_reaches_the_strict_check() -> None:
    state = {name: tensor for name, tensor in _timm().state_dict().items() if not name.startswith("head.")}
    with pytest.raises(RuntimeError, match=r"Unexpected key.*head\.1\.weight"):
        rebuild({**state, "head.1.weight": torch.zeros(5, 128), "head.1.bias": torch.zeros(5)})
