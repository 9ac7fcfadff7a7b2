# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file
from timm.models.swin_transformer import SwinTransformer, get_relative_position_index
from torch import Tensor

from tests.seeding import seeded
from tests.vitedge.checkpoints.rebuild import images, naming_of, rebuilt, relative_error
from vitedge.checkpoints.families import swin as family
from vitedge.checkpoints.families.family import Hints
from vitedge.errors import UnknownArchitecture, WeightsMismatch
from vitedge.models import swin as builder
from vitedge.records import Origin

transformers = pytest.importorskip("transformers", reason="the Hugging Face converter is checked against it")

TINY: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 2,
    "embed_dim": 24,
    "depths": (2, 2, 2),
    "num_heads": (2, 4, 8),
    "window_size": 4,
    "num_classes": 5,
}


def tiny_timm(**changes: Any) -> SwinTransformer:
    return seeded(SwinTransformer(**{**TINY, **changes}))


def tiny_config(**changes: Any) -> Any:
    return transformers.SwinConfig(
        **{
            "image_size": 32,
            "patch_size": 2,
            "embed_dim": 24,
            "depths": [2, 2, 2],
            "num_heads": [2, 4, 8],
            "window_size": 4,
            "num_labels": 5,
            **changes,
        }
    )


def official_names(model: SwinTransformer, head: str = "head.") -> dict[str, Tensor]:
    """Microsoft's names, written out: merging ends a stage, the head is a bare Linear, and two buffers are stored."""
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        parts = name.split(".")
        if len(parts) > 2 and parts[2] == "downsample":
            parts[1] = str(int(parts[1]) - 1)
        state[".".join(parts).replace("head.fc.", head)] = tensor
    for stage, layer in enumerate(model.layers):
        for index, block in enumerate(layer.blocks):
            prefix = f"layers.{stage}.blocks.{index}"
            state[f"{prefix}.attn.relative_position_index"] = get_relative_position_index(*block.window_size)
            if block.attn_mask is not None:
                state[f"{prefix}.attn_mask"] = block.attn_mask
    return state


def simmim_names(model: SwinTransformer) -> dict[str, Tensor]:
    state = {f"encoder.{name}": tensor for name, tensor in official_names(model).items() if "head" not in name}
    stride, width = 8, model.num_features
    state["encoder.mask_token"] = torch.zeros(1, 1, 24)
    state["decoder.0.weight"] = torch.zeros(stride**2 * 3, width, 1, 1)
    state["decoder.0.bias"] = torch.zeros(stride**2 * 3)
    return state


def test_timm_names_load_strictly_and_compute_the_same() -> None:
    model = tiny_timm(img_size=48, qkv_bias=False)
    result = rebuilt(family, builder, model.state_dict(), Hints(overrides={"image_size": (48, 48)}))
    assert result.spec.naming == "timm"
    assert result.spec.origins["image_size"] is Origin.GIVEN
    assert result.spec.options["qkv_bias"] is False
    assert relative_error(result.module(images(48)), model(images(48))) == 0


def test_everything_is_found_from_shapes() -> None:
    model = tiny_timm(mlp_ratio=(3.0, 4.0, 2.5), in_chans=1)
    spec = rebuilt(family, builder, model.state_dict()).spec
    assert (spec.widths, spec.depths, spec.heads) == ((24, 48, 96), (2, 2, 2), (2, 4, 8))
    assert (spec.mlp_ratios, spec.patch, spec.in_channels, spec.classes) == ((3.0, 4.0, 2.5), 2, 1, 5)
    assert spec.options["window"] == (4, 4, 4)
    assert spec.variant == "custom Swin (widths 24-48-96, depths 2-2-2)"
    assert (spec.image_size, spec.origins["image_size"]) == ((32, 32), Origin.ASSUMED)
    assert len(spec.preprocessing.mean) == 1
    missing = {"in_channels", "norm_eps", "activation", "preprocessing.mean", "options.window"} - set(spec.origins)
    assert not missing


@pytest.mark.parametrize(
    ("name", "variant", "size", "crop"),
    [
        ("swin_tiny_patch4_window7_224", "Swin-T/4 window 7", 224, 0.9),
        ("swin_small_patch4_window7_224", "Swin-S/4 window 7", 224, 0.9),
        ("swin_base_patch4_window12_384", "Swin-B/4 window 12", 384, 1.0),
        ("swin_large_patch4_window7_224", "Swin-L/4 window 7", 224, 0.9),
    ],
)
def test_published_models_are_known_by_name(name: str, variant: str, size: int, crop: float) -> None:
    with torch.device("meta"):
        state = timm.create_model(name).state_dict()
    spec = family.infer(state, "timm", Hints())
    assert (spec.variant, spec.image_size, spec.preprocessing.crop) == (variant, (size, size), crop)
    assert spec.origins["image_size"] is Origin.TABLE


def test_a_window_that_shrank_to_its_map_tells_the_image_size() -> None:
    model = tiny_timm(window_size=7, img_size=40)  # maps of 20, 10 and 5
    result = rebuilt(family, builder, model.state_dict())
    assert result.spec.options["window"] == (7, 7, 5)
    assert (result.spec.image_size, result.spec.origins["image_size"]) == ((40, 40), Origin.SHAPE)
    assert relative_error(result.module(images(40)), model(images(40))) == 0


@pytest.mark.parametrize("head", ["head.", "head.fc."])
def test_official_names_are_shifted_and_their_masks_tell_the_image_size(head: str) -> None:
    model = tiny_timm(img_size=64)
    state = official_names(model, head)
    assert "layers.0.downsample.reduction.weight" in state
    assert "layers.2.downsample.reduction.weight" not in state
    result = rebuilt(family, builder, state)
    assert result.spec.naming == "official"
    assert (result.spec.image_size, result.spec.origins["image_size"]) == ((64, 64), Origin.SHAPE)
    assert all("computed from" in reason for reason in result.converted.dropped.values())
    assert len(result.converted.dropped) == 6 + 3
    assert relative_error(result.module(images(64)), model(images(64))) == 0


def test_simmim_leaves_its_encoder() -> None:
    model = tiny_timm(num_classes=0)
    result = rebuilt(family, builder, simmim_names(model))
    assert (result.spec.naming, result.spec.classes) == ("simmim", 0)
    assert result.spec.variant == "custom SimMIM Swin encoder (widths 24-48-96, depths 2-2-2)"
    assert "masked-image pretraining" in result.converted.dropped["decoder.0.weight"]
    assert "encoder.mask_token" in result.converted.dropped
    assert relative_error(result.module(images(32)), model(images(32))) == 0


@pytest.mark.parametrize("on_disk", [True, False])
def test_huggingface_classifier_gives_the_logits_of_transformers(on_disk: bool, tmp_path: Path) -> None:
    config = tiny_config(layer_norm_eps=1e-2, hidden_act="gelu_new", id2label={str(i): f"kind {i}" for i in range(5)})
    model = seeded(transformers.SwinForImageClassification(config))
    state = dict(model.state_dict())
    if on_disk:
        model.save_pretrained(tmp_path)
        state = load_file(tmp_path / "model.safetensors")
    assert any("attention.self.query" in name for name in state) is on_disk
    processor = {
        "do_normalize": True,
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.2, 0.2, 0.2],
        "resample": 2,
        "size": {"height": 32, "width": 32},
    }
    result = rebuilt(family, builder, state, Hints(config=config.to_dict(), preprocessor=processor))
    assert (result.spec.norm_eps, result.spec.origins["norm_eps"]) == (1e-2, Origin.CONFIG)
    assert result.spec.activation == "gelu_tanh"
    assert result.spec.labels == tuple(f"kind {i}" for i in range(5))
    assert result.spec.preprocessing.mean == (0.5, 0.4, 0.3)
    assert result.spec.preprocessing.interpolation == "bilinear"
    assert (result.spec.image_size, result.spec.origins["image_size"]) == ((32, 32), Origin.CONFIG)
    assert relative_error(result.module(images(32)), model(images(32)).logits) < 1e-5


def test_huggingface_encoder_gives_the_hidden_state_of_transformers() -> None:
    model = seeded(transformers.SwinModel(tiny_config(image_size=40)))  # its maps are padded to windows
    result = rebuilt(family, builder, dict(model.state_dict()), Hints(config=model.config.to_dict()))
    expected = model(images(40))
    last, pooled = builder.features(result.module, images(40))
    assert result.spec.classes == 0
    assert result.spec.labels == ()
    assert relative_error(last.flatten(2).transpose(1, 2), expected.last_hidden_state) < 1e-5
    assert relative_error(pooled, expected.pooler_output) < 1e-5


def test_huggingface_masked_image_model_leaves_its_encoder() -> None:
    model = seeded(transformers.SwinForMaskedImageModeling(tiny_config(encoder_stride=8)))
    result = rebuilt(family, builder, dict(model.state_dict()), Hints(config=model.config.to_dict()))
    assert set(result.converted.dropped) == {"swin.embeddings.mask_token", "decoder.0.weight", "decoder.0.bias"}
    last, _ = builder.features(result.module, images(32))
    expected = model.swin(images(32)).last_hidden_state
    assert relative_error(last.flatten(2).transpose(1, 2), expected) < 1e-5


def test_swin_v2_is_refused_by_name() -> None:
    with torch.device("meta"):
        states = [
            timm.create_model("swinv2_tiny_window8_256").state_dict(),
            transformers.Swinv2Model(transformers.Swinv2Config()).state_dict(),
        ]
    for state in states:
        with pytest.raises(UnknownArchitecture, match=re.escape("SwinV2 (cosine attention) is not supported")):
            naming_of(family, state).convert(state, Hints())


def test_a_missing_third_of_a_projection_is_named() -> None:
    state = dict(seeded(transformers.SwinModel(tiny_config())).state_dict())
    del state["encoder.layers.0.blocks.0.attention.k_proj.weight"]
    with pytest.raises(WeightsMismatch, match=r"layers\.0\.blocks\.0\.attn\.k\.weight"):
        rebuilt(family, builder, state)


def test_a_weight_without_a_place_is_named() -> None:
    state = {**tiny_timm().state_dict(), "absolute_pos_embed": torch.zeros(1, 256, 24)}
    with pytest.raises(WeightsMismatch, match="absolute_pos_embed"):
        rebuilt(family, builder, state)


def test_a_missing_weight_is_named() -> None:
    state = tiny_timm().state_dict()
    del state["layers.1.blocks.0.attn.relative_position_bias_table"]
    with pytest.raises(WeightsMismatch, match=r"layers\.1\.blocks\.0\.attn\.relative_position_bias_table"):
        rebuilt(family, builder, state)


def test_an_image_size_below_the_windows_is_refused() -> None:
    with pytest.raises(WeightsMismatch, match="at least 32"):
        rebuilt(family, builder, tiny_timm().state_dict(), Hints(overrides={"image_size": (16, 16)}))


def test_timm_pretrained_configuration_is_honoured() -> None:
    config = {
        "input_size": [3, 48, 48],
        "mean": [0.1, 0.2, 0.3],
        "std": [0.4, 0.5, 0.6],
        "crop_pct": 0.8,
        "interpolation": "bilinear",
    }
    spec = rebuilt(family, builder, tiny_timm(img_size=48).state_dict(), Hints(config=config)).spec
    assert (spec.image_size, spec.preprocessing.mean, spec.preprocessing.crop) == ((48, 48), (0.1, 0.2, 0.3), 0.8)
    assert spec.origins["preprocessing.crop"] is Origin.CONFIG


def test_torchvision_computes_the_same() -> None:
    torchvision = pytest.importorskip("torchvision", reason="pip install torchvision")
    model = seeded(torchvision.models.SwinTransformer([2, 2], 24, [2, 2, 2], [2, 4, 8], [4, 4], num_classes=5).eval())
    result = rebuilt(family, builder, model.state_dict(), Hints(overrides={"image_size": (40, 40)}))
    assert result.spec.naming == "torchvision"
    assert any("do not say how images are resized" in note for note in result.spec.notes)
    assert relative_error(result.module(images(40)), model(images(40))) < 1e-5


def test_mmpretrain_merges_by_unfold() -> None:
    """The permutation is checked by `torch.nn.Unfold` itself, which mmpretrain merges with."""
    merging = torch.nn.Sequential(torch.nn.Unfold(2, stride=2))
    weight, image = torch.randn(6, 12), torch.randn(1, 3, 4, 4)
    theirs = merging(image).transpose(1, 2) @ weight.T
    ours = timm.models.swin_transformer.PatchMerging(3, 3, norm_layer=torch.nn.Identity)
    ours.reduction.weight.data = family._unfolded("layers.1.downsample.reduction.weight", weight)
    assert relative_error(ours(image.permute(0, 2, 3, 1)).flatten(1, 2), theirs) < 1e-5


@pytest.mark.parametrize("letter", ["t", "s", "b"])
def test_torchvisions_published_transforms(letter: str) -> None:
    models = pytest.importorskip("torchvision", reason="pip install torchvision").models
    with torch.device("meta"):
        state = getattr(models, f"swin_{letter}")().state_dict()
    naming = next(naming for naming in family.NAMINGS if not naming.missing(state))
    spec = family.infer(naming.convert(state, Hints()).state, naming.name, Hints())
    found = spec.preprocessing
    assert not any("do not say how images are resized" in note for note in spec.notes)
    told = getattr(models, f"Swin_{letter.upper()}_Weights").IMAGENET1K_V1.transforms()
    assert [round(224 / found.crop)] == told.resize_size
    assert (found.interpolation, list(found.mean)) == (told.interpolation.value, told.mean)


class UnfoldMerging(torch.nn.Module):
    """The patch merging of mmpretrain: `torch.nn.Unfold`, then norm and reduction."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = torch.nn.LayerNorm(4 * width)
        self.reduction = torch.nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        pixels = torch.nn.functional.unfold(x.permute(0, 3, 1, 2), 2, stride=2).transpose(1, 2)
        merged: Tensor = self.reduction(self.norm(pixels))
        return merged.unflatten(1, (x.shape[1] // 2, x.shape[2] // 2))


@torch.no_grad()
def test_mmpretrain_computes_the_same() -> None:
    model = tiny_timm()
    for stage, width in ((1, 24), (2, 48)):
        model.layers[stage].downsample = UnfoldMerging(width)  # type: ignore[union-attr]
    seeded(model)
    names = (
        (r"patch_embed\.proj\.", "backbone.patch_embed.projection."),
        (r"patch_embed\.norm\.", "backbone.patch_embed.norm."),
        (r"layers\.(\d+)\.blocks\.(\d+)\.attn\.", r"backbone.stages.\1.blocks.\2.attn.w_msa."),
        (r"layers\.(\d+)\.blocks\.(\d+)\.mlp\.fc1\.", r"backbone.stages.\1.blocks.\2.ffn.layers.0.0."),
        (r"layers\.(\d+)\.blocks\.(\d+)\.mlp\.fc2\.", r"backbone.stages.\1.blocks.\2.ffn.layers.1."),
        (r"layers\.(\d+)\.blocks\.", r"backbone.stages.\1.blocks."),
        (r"layers\.(\d+)\.downsample\.", lambda found: f"backbone.stages.{int(found[1]) - 1}.downsample."),
        (r"norm\.", "backbone.norm3."),
    )
    state = {}
    for name, tensor in model.state_dict().items():
        renamed = next((re.sub(f"^{old}", new, name) for old, new in names if re.match(old, name)), name)
        state[renamed] = tensor
    result = rebuilt(family, builder, state)
    assert result.spec.naming == "mmpretrain"
    assert relative_error(result.module(images(32)), model(images(32))) < 1e-5
