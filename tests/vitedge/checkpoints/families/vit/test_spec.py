# SPDX-License-Identifier: Apache-2.0
"""Tests of `spec` and of its table of models, `published`."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from tests.seeding import seeded
from tests.vitedge.checkpoints.vit_rebuilding import convert, naming_of
from vitedge.checkpoints.families.family import Hints, State
from vitedge.checkpoints.families.vit import spec as vit
from vitedge.checkpoints.read import read
from vitedge.errors import BadRecipe, UnknownArchitecture, WeightsMismatch
from vitedge.models.vit import build
from vitedge.records import ModelSpec, Origin

PUBLISHED = {
    "vit_tiny_patch16_224": ("ViT-Ti/16", 3),
    "vit_small_patch32_384": ("ViT-S/32", 6),
    "vit_base_patch16_224": ("ViT-B/16", 12),
    "vit_base_patch8_224": ("ViT-B/8", 12),
    "vit_large_patch14_224": ("ViT-L/14", 16),
    "vit_huge_patch14_224": ("ViT-H/14", 16),
    "vit_giant_patch14_224": ("ViT-g/14", 16),
    "vit_gigantic_patch14_224": ("ViT-G/14", 16),
    "vit_base_r50_s16_384": ("R50+ViT-B/16", 12),
    "vit_small_r26_s32_224": ("R26+ViT-S/32", 6),
    "vit_tiny_r_s16_p8_224": ("R+ViT-Ti/16", 3),
    "deit_small_patch16_224": ("ViT-S/16", 6),
    "deit_small_distilled_patch16_224": ("DeiT-S/16 distilled", 6),
    "deit3_medium_patch16_224": ("DeiT-III-M/16", 8),
    "vit_small_patch14_dinov2": ("DINOv2 ViT-S/14", 6),
    "vit_base_patch14_reg4_dinov2": ("DINOv2 ViT-B/14 (4 registers)", 12),
    "vit_giant_patch14_dinov2": ("DINOv2 ViT-g/14", 24),
}


def _weights(name: str = "vit_tiny_patch16_224", **settings: Any) -> dict[str, Tensor]:
    with torch.device("meta"):
        return dict(timm.create_model(name, **settings).state_dict())


def _infer(state: State, **hints: Any) -> ModelSpec:
    return vit.infer(state, naming_of(state), Hints(**hints))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_are_known_by_name_with_their_heads(name: str) -> None:
    settings = {"num_classes": 0} if "dinov2" in name else {"num_classes": 1000}
    spec = convert(_weights(name, **settings))[1]
    assert (spec.variant, spec.heads[0]) == PUBLISHED[name]
    assert spec.origins["heads"] is Origin.TABLE
    assert spec.norm_eps == 1e-6


@pytest.mark.parametrize("naming", [naming.name for naming in vit.NAMINGS])
def test_every_naming_has_a_name_of_its_own_and_a_signature(naming: str) -> None:
    assert [each.name for each in vit.NAMINGS].count(naming) == 1
    assert all(each.signature for each in vit.NAMINGS)


def test_every_fact_says_where_it_came_from() -> None:
    spec = _infer(_weights())
    facts = {"image_size", "in_channels", "classes", "widths", "depths", "mlp_ratios", "patch", "tokens"}
    assert {spec.origins[fact] for fact in facts} == {Origin.SHAPE}
    assert spec.origins["heads"] is Origin.TABLE
    assert spec.origins["norm_eps"] is Origin.TABLE
    assert spec.origins["activation"] is Origin.TABLE
    assert spec.origins["preprocessing.mean"] is Origin.ASSUMED
    assert spec.origins["preprocessing.crop"] is Origin.TABLE
    assert {f"options.{key}" for key in spec.options} <= set(spec.origins)
    assert "labels" not in spec.origins
    assert any("--set mean" in note for note in spec.notes)


def test_the_shapes_are_read() -> None:
    spec = _infer(
        _weights(img_size=96, patch_size=12, embed_dim=192, depth=3, mlp_ratio=2.5, num_classes=7, in_chans=4)
    )
    assert spec.image_size == (96, 96)
    assert (spec.widths, spec.depths, spec.patch, spec.classes, spec.in_channels) == ((192,), (3,), 12, 7, 4)
    assert int(spec.mlp_ratios[0] * 192) == 480
    assert spec.preprocessing.mean == (0.5,) * 4


@pytest.mark.parametrize(
    ("name", "settings", "mean", "crop"),
    [
        ("vit_tiny_patch16_224", {}, 0.5, 0.9),
        ("vit_tiny_patch16_224", {"img_size": 384}, 0.5, 1.0),
        ("vit_tiny_patch16_224", {"num_classes": 0}, 0.485, 0.9),
        ("vit_tiny_patch16_224", {"global_pool": "avg"}, 0.485, 0.875),
        ("vit_tiny_r_s16_p8_224", {"num_classes": 0}, 0.5, 0.9),
        ("deit_tiny_distilled_patch16_224", {}, 0.485, 0.9),
        ("deit3_small_patch16_224", {}, 0.485, 1.0),
        ("vit_small_patch14_dinov2", {"num_classes": 0}, 0.485, 1.0),
    ],
)
def test_preprocessing_of_the_published_recipes(name: str, settings: dict[str, Any], mean: float, crop: float) -> None:
    spec = _infer(_weights(name, **settings))
    assert spec.preprocessing.mean[0] == mean
    assert spec.preprocessing.crop == crop
    assert spec.preprocessing.interpolation == "bicubic"


def test_timms_configuration_is_believed() -> None:
    config = {
        "architecture": "vit_base_patch16_clip_quickgelu_224",
        "mean": [0.1, 0.2, 0.3],
        "std": [0.4, 0.5, 0.6],
        "crop_pct": 0.7,
        "interpolation": "bilinear",
        "input_size": [3, 112, 448],
        "label_names": ["ant", "bee"],
        "global_pool": "avg",
    }
    spec = _infer(_weights(num_classes=2), config=config)
    assert spec.preprocessing.mean == (0.1, 0.2, 0.3)
    assert spec.preprocessing.crop == 0.7
    assert spec.image_size == (112, 448)
    assert spec.activation == "quick_gelu"
    assert spec.labels == ("ant", "bee")
    assert spec.options["pool"] == "mean"
    assert spec.origins["preprocessing.mean"] is spec.origins["image_size"] is Origin.CONFIG
    assert spec.origins["options.pool"] is Origin.CONFIG
    assert spec.notes == ()


def test_labels_of_another_number_of_classes_are_left_out() -> None:
    assert _infer(_weights(num_classes=3), config={"label_names": ["ant", "bee"]}).labels == ()


@pytest.mark.parametrize(("width", "heads"), [(96, 3), (128, 2), (320, 5), (64, 2), (48, 2), (240, 3), (40, 5)])
def test_the_heads_of_a_custom_width_are_a_guess_to_check(width: int, heads: int) -> None:
    spec = _infer(_weights(embed_dim=width, num_heads=1, depth=2))
    assert spec.heads == (heads,)
    assert spec.origins["heads"] is Origin.ASSUMED
    assert any("--set heads=N" in note for note in spec.notes)
    assert spec.variant == f"custom ViT (width {width}, depth 2, heads {heads})/16"


@pytest.mark.parametrize("given", [4, (4,), [4]])
def test_given_heads_are_taken(given: Any) -> None:
    spec = _infer(_weights(embed_dim=96, num_heads=1, depth=2), overrides={"heads": given})
    assert spec.heads == (4,)
    assert spec.origins["heads"] is Origin.GIVEN
    assert not any("--set heads" in note for note in spec.notes)


def test_heads_that_cannot_be_are_refused() -> None:
    state = _weights(embed_dim=96, num_heads=1, depth=1)
    with pytest.raises(BadRecipe, match="heads 5 do not fit the widths 96"):
        _infer(state, overrides={"heads": 5})
    with pytest.raises(UnknownArchitecture, match="give it with --set heads=N"):
        _infer(_weights(embed_dim=37, num_heads=1, depth=1))


def test_an_image_that_is_not_square() -> None:
    state = _weights(img_size=(96, 160))
    guessed = _infer(state)
    assert guessed.image_size == (96, 160)
    assert guessed.origins["image_size"] is Origin.ASSUMED
    assert any("--set image_size=HxW" in note for note in guessed.notes)
    given = _infer(state, overrides={"image_size": (160, 96)})
    assert given.image_size == (160, 96)
    assert given.origins["image_size"] is Origin.GIVEN
    with pytest.raises(
        UnknownArchitecture, match="224x224 has 196 patches of 16 pixels, but pos_embed was trained for 60"
    ):
        _infer(state, overrides={"image_size": (224, 224)})
    with pytest.raises(UnknownArchitecture, match="The 101 positions of pos_embed form no likely grid"):
        _infer({**state, "pos_embed": torch.zeros(1, 102, 192)})


def test_positions_of_registers_are_told_from_positions_of_patches() -> None:
    assert _infer(_weights("vit_small_patch14_reg4_dinov2", img_size=42)).options["position_prefix"] is False
    assert _infer(_weights(reg_tokens=4)).options["position_prefix"] is True


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("patch_embed.proj.weight", (192, 3, 16, 8), "patches are square"),
        ("blocks.0.attn.qkv.weight", (384, 192), "nearest family is ViT of width 192"),
        ("blocks.0.mlp.fc2.weight", (192, 500), "plain or SwiGLU"),
        ("pos_embed", (197, 192), r"\(1, N, width\)"),
    ],
)
def test_shapes_of_another_architecture_are_refused(name: str, shape: tuple[int, ...], message: str) -> None:
    state = _weights()
    with pytest.raises(UnknownArchitecture, match=message):
        vit.infer({**state, name: torch.zeros(shape)}, "timm", Hints())


def test_another_networks_stem_is_refused() -> None:
    state = {**_weights(), "patch_embed.backbone.conv1.0.weight": torch.zeros(32, 3, 3, 3)}
    with pytest.raises(UnknownArchitecture, match="stem is a ResNet-v2"):
        vit.infer(state, "timm", Hints())


@pytest.mark.parametrize("name", ["pos_embed", "patch_embed.proj.weight", "blocks.0.mlp.fc1.weight"])
def test_what_nothing_can_be_read_without_is_named(name: str) -> None:
    state = {key: tensor for key, tensor in _weights().items() if key != name}
    with pytest.raises(WeightsMismatch, match=name):
        vit.infer(state, "timm", Hints())


def test_a_weight_of_another_rank_is_named() -> None:
    with pytest.raises(WeightsMismatch, match=r"head\.weight has 2 axes"):
        vit.infer({**_weights(), "head.weight": torch.zeros(1000)}, "timm", Hints())


def test_the_teacher_of_a_whole_dino_file_is_read(tmp_path: Path) -> None:
    state = seeded(timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=0)).state_dict()
    head = {"head.mlp.0.weight": torch.zeros(4, 192), "head.last_layer.weight_g": torch.zeros(8, 1)}
    student = {f"module.backbone.{name}": tensor for name, tensor in state.items()}
    teacher = {f"backbone.{name}": tensor + 1 for name, tensor in state.items()}
    torch.save({"student": student, "teacher": {**teacher, **head}, "epoch": 7}, tmp_path / "dino.pth")
    found = read(str(tmp_path / "dino.pth"))
    assert found.spec.naming == "dino"
    assert found.weight_set == "teacher"
    assert len(found.dropped) == 2
    module = build(found.spec)
    module.load_state_dict(found.state, strict=True)
    assert torch.equal(module.cls_token, state["cls_token"] + 1)
