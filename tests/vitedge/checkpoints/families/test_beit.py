# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file
from timm.models.beit import Beit, gen_relative_position_index
from torch import Tensor, nn

from tests.seeding import seeded
from tests.vitedge.checkpoints.rebuild import images, naming_of, rebuilt, relative_error
from vitedge.checkpoints.families import beit as family
from vitedge.checkpoints.families.family import Hints
from vitedge.checkpoints.read import read
from vitedge.errors import BadRecipe, UnknownArchitecture, WeightsMismatch
from vitedge.models import beit as builder
from vitedge.records import Origin

transformers = pytest.importorskip("transformers", reason="the Hugging Face converter is checked against it")

TINY: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 48,
    "depth": 2,
    "num_heads": 4,
    "num_classes": 5,
    "init_values": 0.1,
    "use_abs_pos_emb": False,
    "use_rel_pos_bias": True,
}


def tiny_timm(**changes: Any) -> Beit:
    model = Beit(**{**TINY, "norm_layer": lambda width, **_: nn.LayerNorm(width, eps=1e-6), **changes})
    return seeded(model)


def tiny_config(**changes: Any) -> Any:
    return transformers.BeitConfig(
        **{
            "image_size": 32,
            "patch_size": 8,
            "hidden_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 96,
            "vocab_size": 7,
            "num_labels": 5,
            "use_relative_position_bias": True,
            **changes,
        }
    )


def simmim_names(model: Beit) -> dict[str, Tensor]:
    """SimMIM's names, written out: an encoder, the index of its shared biases, and a decoder of one convolution."""
    state = {f"encoder.{name}": tensor for name, tensor in model.state_dict().items()}
    state["encoder.rel_pos_bias.relative_position_index"] = gen_relative_position_index((4, 4))
    state["encoder.mask_token"] = torch.zeros(1, 1, 48)
    state["decoder.0.weight"] = torch.zeros(8 * 8 * 3, 48, 1, 1)
    state["decoder.0.bias"] = torch.zeros(8 * 8 * 3)
    return state


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"use_rel_pos_bias": False, "use_shared_rel_pos_bias": True, "use_abs_pos_emb": True},
        {"global_pool": "token"},
        {"init_values": None, "mlp_ratio": 2.6},
    ],
    ids=["blocks", "shared", "token", "plain"],
)
def test_timm_names_load_strictly_and_compute_the_same(changes: dict[str, Any]) -> None:
    model = tiny_timm(**changes)
    result = rebuilt(family, builder, model.state_dict())
    assert result.spec.naming == "timm"
    assert not result.converted.dropped
    assert (result.spec.image_size, result.spec.origins["image_size"]) == ((32, 32), Origin.SHAPE)
    assert (result.spec.heads, result.spec.origins["heads"]) == ((4,), Origin.SHAPE)
    assert relative_error(result.module(images(32)), model(images(32))) == 0


def test_everything_is_found_from_shapes() -> None:
    spec = rebuilt(family, builder, tiny_timm(mlp_ratio=3, in_chans=1).state_dict()).spec
    assert (spec.widths, spec.depths, spec.mlp_ratios, spec.patch) == ((48,), (2,), (3.0,), 8)
    assert (spec.in_channels, spec.classes, spec.tokens) == (1, 5, ("class",))
    assert spec.variant == "custom BEiT (width 48, depth 2)"
    assert spec.options == {
        "position_embedding": False,
        "block_bias": True,
        "shared_bias": False,
        "qkv_bias": True,
        "layer_scale": True,
        "norm": "pooled",
        "pool": "avg",
    }
    assert all(f"options.{name}" in spec.origins for name in spec.options)


@pytest.mark.parametrize(
    ("name", "variant", "size", "crop"),
    [
        ("beit_base_patch16_224", "BEiT-B/16", 224, 0.9),
        ("beit_base_patch16_384", "BEiT-B/16", 384, 1.0),
        ("beit_large_patch16_224", "BEiT-L/16", 224, 0.9),
    ],
)
def test_published_models_are_known_by_name(name: str, variant: str, size: int, crop: float) -> None:
    with torch.device("meta"):
        state = timm.create_model(name).state_dict()
    spec = family.infer(state, naming_of(family, state).name, Hints())
    assert (spec.variant, spec.image_size, spec.preprocessing.crop) == (variant, (size, size), crop)
    assert (spec.preprocessing.mean, spec.norm_eps) == ((0.5, 0.5, 0.5), 1e-6)
    assert any("BEiT v2" in note for note in spec.notes)


def test_official_finetuned_names_store_the_indices() -> None:
    model = tiny_timm()
    state = dict(model.state_dict())
    for block in range(2):
        state[f"blocks.{block}.attn.relative_position_index"] = gen_relative_position_index((4, 4))
    result = rebuilt(family, builder, state)
    assert result.spec.naming == "official"
    assert len(result.converted.dropped) == 2
    assert relative_error(result.module(images(32)), model(images(32))) == 0


def test_official_pretraining_leaves_its_encoder() -> None:
    model = tiny_timm(
        use_rel_pos_bias=False, use_shared_rel_pos_bias=True, num_classes=0, global_pool="token", use_fc_norm=False
    )
    state = dict(model.state_dict())
    state |= {"mask_token": torch.zeros(1, 1, 48), "lm_head.weight": torch.zeros(9, 48), "lm_head.bias": torch.zeros(9)}
    state["rel_pos_bias.relative_position_index"] = gen_relative_position_index((4, 4))
    result = rebuilt(family, builder, state)
    assert (result.spec.classes, result.spec.options["norm"], result.spec.options["pool"]) == (0, "final", "avg")
    assert result.spec.origins["options.pool"] is Origin.ASSUMED
    assert set(result.converted.dropped) == set(state) - set(model.state_dict())
    tokens, pooled = builder.features(result.module, images(32))
    assert relative_error(tokens, model.forward_features(images(32))) == 0
    assert relative_error(pooled, tokens[:, 1:].mean(1)) == 0


@pytest.mark.parametrize("joined", [False, True], ids=["q_bias", "qkv.bias"])
def test_simmim_leaves_its_encoder(joined: bool) -> None:
    model = tiny_timm(
        use_rel_pos_bias=False, use_shared_rel_pos_bias=True, num_classes=0, global_pool="token", use_fc_norm=False
    )
    state = simmim_names(model)
    if joined:  # any bias of the keys: softmax must not see it
        for block in range(2):
            prefix = f"encoder.blocks.{block}.attn"
            parts = (state.pop(f"{prefix}.q_bias"), torch.randn(48), state.pop(f"{prefix}.v_bias"))
            state[f"{prefix}.qkv.bias"] = torch.cat(parts)
    result = rebuilt(family, builder, state)
    assert (result.spec.naming, result.spec.classes) == ("simmim", 0)
    assert result.spec.variant == "custom SimMIM ViT encoder (width 48, depth 2)"
    assert result.spec.preprocessing.mean == (0.485, 0.456, 0.406)
    assert "encoder.mask_token" in result.converted.dropped
    assert ("encoder.blocks.0.attn.qkv.bias" in result.converted.dropped) is joined
    tokens, _ = builder.features(result.module, images(32))
    assert relative_error(tokens, model.forward_features(images(32))) == 0


def test_a_bias_of_the_keys_changes_nothing() -> None:
    model = tiny_timm()
    expected = model(images(32))
    for block in model.blocks:
        block.attn.k_bias.copy_(torch.randn(48))
    assert relative_error(model(images(32)), expected) < 1e-5


# Under inference_mode as wherever a reference runs: transformers keeps BEiT's index of positions for the whole process,
# and one that was made in that mode is refused by a model that records gradients.
HF_KINDS = {
    "blocks": {},
    "shared": {"use_relative_position_bias": False, "use_shared_relative_position_bias": True},
    "absolute": {"use_relative_position_bias": False, "use_absolute_position_embeddings": True},
    "class": {"use_mean_pooling": False, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-2},
    "both": {"use_shared_relative_position_bias": True, "layer_scale_init_value": 0.0},
}


@pytest.mark.parametrize("kind", HF_KINDS)
@pytest.mark.parametrize("on_disk", [True, False])
@torch.inference_mode()
def test_huggingface_classifier_gives_the_logits_of_transformers(kind: str, on_disk: bool, tmp_path: Path) -> None:
    config = tiny_config(**HF_KINDS[kind])
    model = seeded(transformers.BeitForImageClassification(config))
    state = dict(model.state_dict())
    if on_disk:
        model.save_pretrained(tmp_path)
        state = load_file(tmp_path / "model.safetensors")
    assert any("encoder.layer.0" in name for name in state) is on_disk
    result = rebuilt(family, builder, state, Hints(config=config.to_dict()))
    assert (result.spec.naming, result.spec.norm_eps) == ("huggingface", config.layer_norm_eps)
    assert result.spec.activation == config.hidden_act
    assert relative_error(result.module(images(32)), model(images(32)).logits) < 1e-5


@pytest.mark.parametrize("pooling", [True, False])
@pytest.mark.parametrize("mean", [True, False])
@torch.inference_mode()
def test_huggingface_encoder_gives_the_hidden_state_of_transformers(pooling: bool, mean: bool) -> None:
    model = seeded(transformers.BeitModel(tiny_config(use_mean_pooling=mean), add_pooling_layer=pooling))
    result = rebuilt(family, builder, dict(model.state_dict()), Hints(config=model.config.to_dict()))
    expected = model(images(32))
    tokens, pooled = builder.features(result.module, images(32))
    assert result.spec.classes == 0
    assert relative_error(tokens, expected.last_hidden_state) < 1e-5
    if pooling:
        assert relative_error(pooled, expected.pooler_output) < 1e-5


@pytest.mark.parametrize("mean", [True, False])
@torch.inference_mode()
def test_huggingface_masked_image_model_leaves_its_encoder(mean: bool) -> None:
    config = tiny_config(use_mask_token=True, use_mean_pooling=mean)
    model = seeded(transformers.BeitForMaskedImageModeling(config))
    result = rebuilt(family, builder, dict(model.state_dict()), Hints(config=config.to_dict()))
    assert {"beit.embeddings.mask_token", "lm_head.weight", "lm_head.bias"} <= set(result.converted.dropped)
    hidden = model.beit(images(32)).last_hidden_state
    tokens, _ = builder.features(result.module, images(32))
    assert relative_error(tokens, model.layernorm(hidden) if mean else hidden) < 1e-5


def test_without_biases_and_configuration_the_heads_are_assumed_or_given() -> None:
    model = tiny_timm(use_rel_pos_bias=False, use_abs_pos_emb=True, embed_dim=128, num_heads=8)
    state = model.state_dict()
    assumed = family.infer(state, "timm", Hints())
    assert (assumed.heads, assumed.origins["heads"]) == ((2,), Origin.ASSUMED)
    given = family.infer(state, "timm", Hints(overrides={"heads": (8,)}))
    assert (given.heads, given.origins["heads"]) == ((8,), Origin.GIVEN)
    with pytest.raises(BadRecipe, match="heads 7 do not fit"):
        family.infer(state, "timm", Hints(overrides={"heads": (7,)}))


def test_positions_of_a_grid_that_is_not_square_need_the_image_size() -> None:
    model = tiny_timm(img_size=(32, 48))
    with pytest.raises(UnknownArchitecture, match="image_size"):
        rebuilt(family, builder, model.state_dict())
    result = rebuilt(family, builder, model.state_dict(), Hints(config={"image_size": [32, 48]}))
    assert (result.spec.image_size, result.spec.origins["image_size"]) == ((32, 48), Origin.CONFIG)
    with pytest.raises(WeightsMismatch, match="does not fit"):
        rebuilt(family, builder, model.state_dict(), Hints(overrides={"image_size": (32, 32)}))


def test_a_weight_left_over_or_missing_is_named() -> None:
    state = tiny_timm().state_dict()
    with pytest.raises(WeightsMismatch, match="decode_head"):
        rebuilt(family, builder, {**state, "decode_head.weight": torch.zeros(1)})
    del state["blocks.0.mlp.fc1.weight"]
    with pytest.raises(WeightsMismatch, match=r"blocks\.0\.mlp\.fc1\.weight"):
        rebuilt(family, builder, state)


def test_an_image_without_a_patch_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "beit.pth"
    torch.save(tiny_timm(use_rel_pos_bias=False).state_dict(), source)
    with pytest.raises(BadRecipe, match="image_size 1x1 is smaller than a patch of 8 pixels"):
        read(str(source), overrides={"image_size": 1, "heads": 4})


def test_null_is_not_the_default_of_a_key_that_is_left_out(tmp_path: Path) -> None:
    config = tiny_config()
    transformers.BeitForImageClassification(config).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config.to_dict(), "num_attention_heads": None}, default=str))
    with pytest.raises(UnknownArchitecture, match="num_attention_heads = null"):
        read(str(tmp_path))
