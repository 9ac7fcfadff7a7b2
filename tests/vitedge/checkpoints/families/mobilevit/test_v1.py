# SPDX-License-Identifier: Apache-2.0
"""Tests of `v1`, and of what `v2` shares with it: `structure`, `cvnets` and `huggingface`."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import MobileViTForImageClassification, MobileViTForSemanticSegmentation, MobileViTModel

from tests.seeding import seeded
from tests.vitedge.checkpoints.families.mobilevit.models import (
    cvnets_names,
    huggingface_config,
    images,
    published_shape,
    rebuilt,
    tiny,
)
from vitedge.checkpoints.families.family import Hints
from vitedge.checkpoints.families.mobilevit import v1 as mobilevit
from vitedge.errors import BadRecipe, UnknownArchitecture, WeightsMismatch
from vitedge.models.mobilevit import features
from vitedge.records import Origin

LABELS = ("ant", "bee", "cat", "dog", "elk")
BY_NAME = {naming.name: naming for naming in mobilevit.NAMINGS}


def same(found: torch.Tensor, expected: torch.Tensor) -> None:
    spread = (expected - expected.mean(0)).abs().max()
    assert spread > 1e-3 * expected.abs().max(), "the outputs do not depend on the images"
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def hints_of(model: nn.Module, **preprocessor: object) -> Hints:
    return Hints(config=model.config.to_dict(), preprocessor=preprocessor)


def test_every_fact_of_a_custom_timm_model_is_found_and_its_origin_is_told() -> None:
    model, spec, _ = rebuilt(mobilevit, "timm", tiny().state_dict(), Hints())
    assert (spec.widths, spec.depths, spec.heads, spec.mlp_ratios) == ((32, 48), (1, 2), (4, 4), (2.0, 2.0))
    assert spec.options == {
        "stem": 8,
        "channels": (16, 24, 32),
        "expansions": ((16,), (40, 64), (96,)),
        "transformers": (1, 2),
        "kernel": 3,
        "features": 64,
        "fusion": True,
        "strides": (1, 2, 2),
        "dilations": (1, 1, 1),
    }
    assert (spec.classes, spec.patch, spec.tokens, spec.image_size) == (5, 2, (), (256, 256))
    assert spec.variant == "custom MobileViT (channels 16-24-32, widths 32-48, depths 1-2)"
    assert (spec.norm_eps, spec.activation, spec.preprocessing.channel_order) == (1e-5, "silu", "rgb")
    assert spec.origins["widths"] is Origin.SHAPE
    assert spec.origins["image_size"] is Origin.ASSUMED
    assert spec.origins["heads"] is Origin.ASSUMED
    assert spec.origins["options.strides"] is Origin.ASSUMED
    assert [what in note for what, note in zip(("heads", "strides", "image size"), spec.notes, strict=True)] == [
        True
    ] * 3
    with torch.inference_mode():
        same(model(images()), tiny()(images()))


def test_a_model_without_fusion_or_with_another_kernel_is_rebuilt() -> None:
    for settings in ({"no_fusion": True}, {"kernel_size": 5}):
        original = tiny(**settings)
        model, _, _ = rebuilt(mobilevit, "timm", original.state_dict(), Hints())
        with torch.inference_mode():
            same(model(images()), original(images()))


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_hugging_face_classifier_gives_the_same_logits(where: str, tmp_path: Path) -> None:
    original = seeded(MobileViTForImageClassification(huggingface_config()))
    state = original.state_dict()
    if where == "disk":
        original.save_pretrained(tmp_path)
        state = load_file(tmp_path / "model.safetensors")
    model, spec, dropped = rebuilt(mobilevit, "huggingface", state, hints_of(original))
    with torch.inference_mode():
        same(model(images()), original(images()).logits)
    assert (spec.heads, spec.norm_eps, spec.image_size, spec.classes) == ((2, 2, 2), 1e-4, (64, 64), 5)
    assert spec.origins["heads"] is Origin.CONFIG
    assert spec.preprocessing.channel_order == "bgr"
    assert (spec.labels, dropped) == ((), {})


def test_hugging_face_resizes_maps_that_do_not_divide_into_patches_as_timm_does() -> None:
    original = seeded(MobileViTForImageClassification(huggingface_config(image_size=96)))
    model, spec, _ = rebuilt(mobilevit, "huggingface", original.state_dict(), hints_of(original))
    assert (spec.image_size, spec.notes) == ((96, 96), ())
    with torch.inference_mode():
        same(model(images(edge=96)), original(images(edge=96)).logits)


def test_hugging_face_model_is_headless() -> None:
    original = seeded(MobileViTModel(huggingface_config(hidden_act="relu")))
    model, spec, _ = rebuilt(mobilevit, "huggingface", original.state_dict(), hints_of(original))
    assert (spec.classes, spec.activation) == (0, "relu")
    with torch.inference_mode():
        expected = original(images())
        final, pooled = features(model, images())
        same(final, expected.last_hidden_state)
        same(pooled, expected.pooler_output)
        same(model(images()), expected.pooler_output)


def test_hugging_face_model_without_attention_biases_gets_zeros() -> None:
    original = seeded(MobileViTForImageClassification(huggingface_config(qkv_bias=False)))
    model, _, _ = rebuilt(mobilevit, "huggingface", original.state_dict(), hints_of(original))
    with torch.inference_mode():
        same(model(images()), original(images()).logits)


@pytest.mark.parametrize(("output_stride", "edge"), [(32, 2), (16, 4), (8, 8)])
def test_segmentation_heads_are_dropped_and_the_backbone_keeps_its_stride(output_stride: int, edge: int) -> None:
    config = huggingface_config(
        output_stride=output_stride, aspp_out_channels=16, neck_hidden_sizes=[8, 16, 24, 32, 40, 40, 64]
    )
    original = seeded(MobileViTForSemanticSegmentation(config))
    model, spec, dropped = rebuilt(mobilevit, "huggingface", original.state_dict(), hints_of(original))
    assert (spec.classes, spec.options["features"]) == (0, 0)
    assert dropped
    assert all(name.startswith("segmentation_head.") for name in dropped)
    with torch.inference_mode():
        final, _ = features(model, images())
        same(final, original.mobilevit(images()).last_hidden_state)
    assert final.shape[2:] == (edge, edge)


@pytest.mark.parametrize("counted", [True, False])
def test_cvnets_names_give_the_same_logits(counted: bool) -> None:
    original = published_shape(1)
    foreign = cvnets_names(original, 1)
    if not counted:
        foreign = {name: tensor for name, tensor in foreign.items() if not name.endswith("num_batches_tracked")}
    model, spec, _ = rebuilt(mobilevit, "cvnets", foreign, Hints())
    with torch.inference_mode():
        same(model(images()), original(images()))
    assert spec.preprocessing.channel_order == "bgr"
    assert spec.preprocessing.crop == pytest.approx(256 / 288)


def test_a_segmentation_head_of_cvnets_is_dropped_with_its_reason() -> None:
    foreign = {**cvnets_names(published_shape(1), 1), "seg_head.aspp.weight": torch.zeros(1)}
    assert BY_NAME["cvnets"].convert(foreign, Hints()).dropped == {"seg_head.aspp.weight": "segmentation head"}


def test_the_processor_decides_over_the_table() -> None:
    original = MobileViTForImageClassification(huggingface_config(id2label=dict(enumerate(LABELS))))
    processor = {
        "do_flip_channel_order": False,
        "crop_size": {"height": 96, "width": 96},
        "size": {"shortest_edge": 120},
        "resample": 3,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    spec = rebuilt(mobilevit, "huggingface", original.state_dict(), hints_of(original, **processor))[1]
    assert spec.image_size == (96, 96)
    assert (spec.preprocessing.crop, spec.preprocessing.interpolation) == (0.8, "bicubic")
    assert spec.preprocessing.channel_order == "rgb"
    assert spec.preprocessing.mean == (0.0, 0.0, 0.0), "the processor does not normalize unless do_normalize says so"
    assert spec.labels == LABELS
    assert spec.notes == ()


def test_what_a_processor_normalizes_before_it_flips_is_in_the_models_order() -> None:
    original = MobileViTForImageClassification(huggingface_config())
    processor = {
        "do_flip_channel_order": True,
        "do_normalize": True,
        "image_mean": [0.1, 0.2, 0.3],
        "image_std": [1, 2, 3],
    }
    spec = rebuilt(mobilevit, "huggingface", original.state_dict(), hints_of(original, **processor))[1]
    assert (spec.preprocessing.mean, spec.preprocessing.std) == ((0.3, 0.2, 0.1), (3, 2, 1))


def test_overrides_are_taken_and_checked() -> None:
    state = tiny().state_dict()
    given = {"heads": (2, 8), "patch": 4, "image_size": (64, 64)}
    spec = mobilevit.infer(state, "timm", Hints(overrides=given))
    assert (spec.heads, spec.patch, spec.image_size) == ((2, 8), 4, (64, 64))
    assert {spec.origins[name] for name in given} == {Origin.GIVEN}
    with pytest.raises(BadRecipe, match="heads 7-7 do not fit"):
        mobilevit.infer(state, "timm", Hints(overrides={"heads": (7,)}))


def test_a_weight_that_is_missing_or_left_over_is_named() -> None:
    state = seeded(MobileViTForImageClassification(huggingface_config())).state_dict()
    query = next(name for name in state if name.endswith("attention.query.weight"))
    convert = BY_NAME["huggingface"].convert
    with pytest.raises(WeightsMismatch, match="query"):
        convert({name: tensor for name, tensor in state.items() if name != query}, Hints())
    with pytest.raises(WeightsMismatch, match=r"neck\.weight"):
        convert({**state, "neck.weight": torch.zeros(1)}, Hints())
    fusion = next(name for name in state if "encoder.layer.3.fusion.convolution" in name)
    converted = convert({name: tensor for name, tensor in state.items() if name != fusion}, Hints())
    assert "stages.3.1.conv_fusion.conv.weight" not in converted.state
    with pytest.raises(WeightsMismatch, match=r"no weight stem\.conv\.weight"):
        mobilevit.infer({k: v for k, v in tiny().state_dict().items() if k != "stem.conv.weight"}, "timm", Hints())


def test_what_timm_cannot_build_is_refused_in_one_sentence() -> None:
    narrow = huggingface_config(neck_hidden_sizes=[8, 12, 24, 32, 40, 48, 64])
    state = BY_NAME["huggingface"].convert(MobileViTForImageClassification(narrow).state_dict(), Hints()).state
    with pytest.raises(UnknownArchitecture, match="multiples of 8; this checkpoint has 12"):
        mobilevit.infer(state, "huggingface", Hints())
    with pytest.raises(UnknownArchitecture, match="tanhshrink"):
        mobilevit.infer(tiny().state_dict(), "timm", Hints(config={"hidden_act": "tanhshrink"}))
    with pytest.raises(UnknownArchitecture, match="output stride of 4"):
        mobilevit.infer(tiny().state_dict(), "timm", Hints(config={"output_stride": 4}))
    plain = {
        name: tensor
        for name, tensor in tiny().state_dict().items()
        if "stages.1.2" not in name and "stages.2.1" not in name
    }
    with pytest.raises(UnknownArchitecture, match="MobileViT block"):
        mobilevit.infer(plain, "timm", Hints())


def test_namings_do_not_take_each_others_checkpoints() -> None:
    files = {
        "timm": tiny().state_dict(),
        "huggingface": MobileViTModel(huggingface_config()).state_dict(),
        "cvnets": cvnets_names(published_shape(1), 1),
    }
    for holder, state in files.items():
        assert [name for name, naming in BY_NAME.items() if not naming.missing(state)] == [holder]
