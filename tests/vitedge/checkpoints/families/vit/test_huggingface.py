# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn

import vitedge
from tests.seeding import seeded
from tests.vitedge.checkpoints.vit_rebuilding import assert_equal, convert, images_for, rebuild
from vitedge.checkpoints.families.family import Hints
from vitedge.errors import WeightsMismatch
from vitedge.models import vit as builder
from vitedge.records import Origin

SIZES: dict[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "image_size": 32,
    "patch_size": 8,
}
PLAIN = {**SIZES, "intermediate_size": 40, "num_labels": 5}
SCALED = {**SIZES, "mlp_ratio": 2, "num_labels": 5}


@pytest.fixture(autouse=True)
def _silent() -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def _made(model: str, config: str, **settings: Any) -> nn.Module:
    return seeded(getattr(transformers, model)(getattr(transformers, config)(**settings)))


def _states(model: Any, folder: Path) -> dict[str, tuple[dict[str, Tensor], Hints]]:
    """The weights as they are in memory and as they are on disk, each with what lies beside them."""
    model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    return {
        "memory": (model.state_dict(), Hints(config=model.config.to_dict())),
        "disk": (load_file(folder / "model.safetensors"), Hints(config=config)),
    }


CLASSIFIERS = {
    "vit": ("ViTForImageClassification", "ViTConfig", PLAIN),
    "vit without biases": ("ViTForImageClassification", "ViTConfig", {**PLAIN, "qkv_bias": False}),
    "vit tanh gelu": ("ViTForImageClassification", "ViTConfig", {**PLAIN, "hidden_act": "gelu_pytorch_tanh"}),
    "vit quick gelu": ("ViTForImageClassification", "ViTConfig", {**PLAIN, "hidden_act": "quick_gelu"}),
    "vit large eps": ("ViTForImageClassification", "ViTConfig", {**PLAIN, "layer_norm_eps": 1e-2}),
    "vit one channel": ("ViTForImageClassification", "ViTConfig", {**PLAIN, "num_channels": 1}),
    "vit wide": ("ViTForImageClassification", "ViTConfig", {**PLAIN, "image_size": [32, 48]}),
    "deit": ("DeiTForImageClassification", "DeiTConfig", PLAIN),
    "deit teacher": ("DeiTForImageClassificationWithTeacher", "DeiTConfig", PLAIN),
    "dinov2": ("Dinov2ForImageClassification", "Dinov2Config", SCALED),
    "dinov2 swiglu": ("Dinov2ForImageClassification", "Dinov2Config", {**SCALED, "use_swiglu_ffn": True}),
    "dinov2 registers": ("Dinov2WithRegistersForImageClassification", "Dinov2WithRegistersConfig", SCALED),
}

ENCODERS = {
    "vit": ("ViTModel", "ViTConfig", PLAIN),
    "deit": ("DeiTModel", "DeiTConfig", PLAIN),
    "dinov2": ("Dinov2Model", "Dinov2Config", SCALED),
    "dinov2 swiglu": ("Dinov2Model", "Dinov2Config", {**SCALED, "use_swiglu_ffn": True}),
    "dinov2 registers": ("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", SCALED),
}


@pytest.mark.parametrize("place", ["memory", "disk"])
@pytest.mark.parametrize("case", CLASSIFIERS)
@torch.inference_mode()
def test_logits_of_every_classifier_are_those_of_transformers(case: str, place: str, tmp_path: Path) -> None:
    model, config, settings = CLASSIFIERS[case]
    source = _made(model, config, **settings)
    module, spec, _ = rebuild(*_states(source, tmp_path)[place])
    images = images_for(spec)
    assert spec.classes == 5
    assert spec.heads == (3,)
    assert spec.origins["heads"] is Origin.CONFIG
    assert_equal(module(images), source(images).logits)


@pytest.mark.parametrize("place", ["memory", "disk"])
@pytest.mark.parametrize("case", ENCODERS)
@torch.inference_mode()
def test_tokens_of_every_encoder_are_those_of_transformers(case: str, place: str, tmp_path: Path) -> None:
    model, config, settings = ENCODERS[case]
    source = _made(model, config, **settings)
    module, spec, converted = rebuild(*_states(source, tmp_path)[place])
    images = images_for(spec)
    hidden = source(images).last_hidden_state
    tokens, pooled = builder.features(module, images)
    assert spec.classes == 0
    assert_equal(tokens, hidden)
    assert_equal(pooled, hidden[:, 0])
    assert torch.equal(module(images), pooled)
    assert all("pooler" in name or "mask_token" in name for name in converted.dropped)
    assert len(converted.dropped) == (1 if "dinov2" in case else 2)


@pytest.mark.parametrize("model", ["ViTMAEModel", "ViTMAEForPreTraining"])
@torch.inference_mode()
def test_the_encoder_of_mae_sees_every_patch_and_loses_its_decoder(model: str, tmp_path: Path) -> None:
    decoder = {
        "decoder_hidden_size": 16,
        "decoder_num_hidden_layers": 1,
        "decoder_num_attention_heads": 2,
        "decoder_intermediate_size": 16,
    }
    source = _made(model, "ViTMAEConfig", **PLAIN, **decoder, mask_ratio=0.0)
    encoder = source if model == "ViTMAEModel" else source.vit
    for state, hints in _states(source, tmp_path).values():
        module, spec, converted = rebuild(state, hints)
        images = images_for(spec)
        in_order = torch.arange(16.0).expand(2, -1)
        assert_equal(builder.features(module, images)[0], encoder(images, noise=in_order).last_hidden_state)
        assert spec.variant == "custom MAE ViT (width 24, depth 2, heads 3)/8 encoder"
        assert set(converted.dropped) == {name for name in state if name.startswith("decoder.")}


def test_without_a_configuration_the_epsilon_is_that_of_the_library() -> None:
    vit = _made("ViTModel", "ViTConfig", **PLAIN).state_dict()
    dinov2 = _made("Dinov2Model", "Dinov2Config", **{**SCALED, "patch_size": 14, "image_size": 56}).state_dict()
    assert convert(vit)[1].norm_eps == 1e-12
    assert convert(dinov2)[1].norm_eps == 1e-6
    assert convert(vit)[1].origins["norm_eps"] is Origin.TABLE


def test_a_processor_and_labels_are_read() -> None:
    settings = {**PLAIN, "id2label": {"0": "ant", "1": "bee", "2": "cat", "3": "dog", "4": "eel"}}
    source = _made("ViTForImageClassification", "ViTConfig", **settings)
    processor = {
        "do_normalize": True,
        "image_mean": [0.1, 0.2, 0.3],
        "image_std": [0.4, 0.5, 0.6],
        "resample": 3,
        "size": {"shortest_edge": 40},
        "do_center_crop": True,
        "crop_size": {"height": 32, "width": 32},
    }
    _, spec = convert(source.state_dict(), Hints(source.config.to_dict(), processor))
    assert spec.preprocessing.mean == (0.1, 0.2, 0.3)
    assert spec.preprocessing.std == (0.4, 0.5, 0.6)
    assert spec.preprocessing.interpolation == "bicubic"
    assert spec.preprocessing.crop == pytest.approx(0.8)
    assert spec.labels == ("ant", "bee", "cat", "dog", "eel")
    assert spec.origins["preprocessing.mean"] is Origin.CONFIG
    assert spec.origins["labels"] is Origin.CONFIG


def test_generic_labels_are_none() -> None:
    source = _made("ViTForImageClassification", "ViTConfig", **PLAIN)
    assert convert(source.state_dict(), Hints(source.config.to_dict()))[1].labels == ()


def test_a_processor_that_crops_smaller_leaves_the_trained_size() -> None:
    source = _made("Dinov2Model", "Dinov2Config", **SCALED)
    processor = {"do_center_crop": True, "crop_size": {"height": 16, "width": 16}, "size": {"shortest_edge": 20}}
    assert convert(source.state_dict(), Hints(source.config.to_dict(), processor))[1].image_size == (32, 32)


@pytest.mark.parametrize("part", ["q_proj", "k_proj", "v_proj"])
def test_a_projection_without_its_siblings_is_named(part: str) -> None:
    state = _made("ViTModel", "ViTConfig", **PLAIN).state_dict()
    del state[f"layers.1.attention.{part}.weight"]
    with pytest.raises(WeightsMismatch, match=r"blocks\.1\.attn\." + part[0]):
        convert(state)


@pytest.mark.parametrize("part", ["gate_proj", "up_proj"])
def test_a_gate_without_its_sibling_is_named(part: str) -> None:
    state = _made("Dinov2Model", "Dinov2Config", **SCALED, use_swiglu_ffn=True).state_dict()
    del state[f"encoder.layer.1.mlp.{part}.weight"]
    with pytest.raises(WeightsMismatch, match=r"blocks\.1\.mlp\." + part.partition("_")[0]):
        convert(state)


def test_a_foreign_weight_is_named() -> None:
    state = _made("ViTModel", "ViTConfig", **PLAIN).state_dict()
    with pytest.raises(WeightsMismatch, match=r"layers\.0\.adapter\.weight"):
        convert({**state, "layers.0.adapter.weight": torch.zeros(2, 2)})


@pytest.mark.parametrize("size", [(16, 16), (48, 72)])
@pytest.mark.parametrize("configured", [True, False])
@pytest.mark.parametrize("model", ["Dinov2Model", "Dinov2ForImageClassification"])
def test_dinov2_at_another_size_is_that_of_transformers(
    model: str, configured: bool, size: tuple[int, int], tmp_path: Path
) -> None:
    source = _made(model, "Dinov2Config", **{**SCALED, "layerscale_value": 0.5})
    source.save_pretrained(tmp_path)
    path = tmp_path if configured else tmp_path / "alone" / "weights.safetensors"
    if not configured:
        path.parent.mkdir()
        (tmp_path / "model.safetensors").rename(path)
    loaded = vitedge.load(path, image_size=size, overrides={"heads": 3})
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = source(images)
        if model == "Dinov2Model":
            assert torch.allclose(loaded.module.forward_features(images), expected.last_hidden_state, atol=1e-4)  # type: ignore[operator]
        else:
            assert torch.allclose(loaded.module(images), expected.logits, atol=1e-4)
