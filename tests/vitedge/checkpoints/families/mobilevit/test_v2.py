# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import MobileViTV2ForImageClassification, MobileViTV2ForSemanticSegmentation, MobileViTV2Model

from tests.seeding import seeded
from tests.vitedge.checkpoints.families.mobilevit.models import (
    cvnets_names,
    huggingface_config_v2,
    images,
    published_shape,
    rebuilt,
    tiny,
)
from vitedge.checkpoints.families.family import Hints
from vitedge.checkpoints.families.mobilevit import v1 as mobilevit
from vitedge.checkpoints.families.mobilevit import v2 as mobilevitv2
from vitedge.errors import WeightsMismatch
from vitedge.models.mobilevitv2 import features, resize
from vitedge.records import Origin

BY_NAME = {naming.name: naming for naming in mobilevitv2.NAMINGS}


def same(found: torch.Tensor, expected: torch.Tensor) -> None:
    spread = (expected - expected.mean(0)).abs().max()
    assert spread > 1e-3 * expected.abs().max(), "the outputs do not depend on the images"
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_every_fact_of_a_custom_timm_model_is_found() -> None:
    original = tiny(2, channels=3)
    model, spec, _ = rebuilt(mobilevitv2, "timm", original.state_dict(), Hints())
    assert (spec.widths, spec.depths, spec.heads) == ((32, 48), (1, 2), (1, 1))
    assert (spec.options["features"], spec.options["fusion"]) == (0, False)
    assert spec.origins["heads"] is Origin.TABLE
    assert spec.variant.startswith("custom MobileViTv2 (channels 16-24-32")
    with torch.inference_mode():
        same(model(images()), original(images()))


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_hugging_face_classifier_gives_the_same_logits(where: str, tmp_path: Path) -> None:
    original = seeded(MobileViTV2ForImageClassification(huggingface_config_v2(layer_norm_eps=1e-3)))
    state = original.state_dict()
    if where == "disk":
        original.save_pretrained(tmp_path)
        state = load_file(tmp_path / "model.safetensors")
    hints = Hints(config=original.config.to_dict(), preprocessor={"do_flip_channel_order": True})
    model, spec, _ = rebuilt(mobilevitv2, "huggingface", state, hints)
    with torch.inference_mode():
        same(model(images()), original(images()).logits)
    assert (spec.norm_eps, spec.image_size) == (1e-3, (64, 64))
    assert (spec.activation, spec.origins["activation"]) == ("silu", Origin.CONFIG)
    assert spec.preprocessing.channel_order == "bgr"


def test_a_size_at_which_hugging_face_cuts_its_maps_off_is_told() -> None:
    original = seeded(MobileViTV2ForImageClassification(huggingface_config_v2(image_size=96)))
    hints = Hints(config=original.config.to_dict())
    model, spec, _ = rebuilt(mobilevitv2, "huggingface", original.state_dict(), hints)
    with torch.inference_mode():
        expected = original(images(edge=96)).logits
        assert (model(images(edge=96)) - expected).abs().max() > 0.01 * expected.abs().max(), "the note is needless"
    (note,) = spec.notes
    assert "At 96x96 pixels" in note
    assert "multiples of 64 (--image-size)" in note
    assert resize(original.state_dict(), spec, (128, 64))[1].notes == ()
    assert "At 32x64 pixels" in resize(original.state_dict(), spec, (32, 64))[1].notes[0]
    assert mobilevitv2.infer(tiny(2).state_dict(), "timm", Hints(overrides={"image_size": (40, 40)})).notes[2:] == ()


def test_hugging_face_model_is_headless() -> None:
    original = seeded(MobileViTV2Model(huggingface_config_v2()))
    model, spec, _ = rebuilt(mobilevitv2, "huggingface", original.state_dict(), Hints(config=original.config.to_dict()))
    assert (spec.classes, spec.preprocessing.channel_order) == (0, "rgb")
    with torch.inference_mode():
        expected = original(images())
        final, pooled = features(model, images())
        same(final, expected.last_hidden_state)
        same(pooled, expected.pooler_output)


@pytest.mark.parametrize("output_stride", [16, 8])
def test_segmentation_heads_are_dropped_and_the_backbone_keeps_its_stride(output_stride: int) -> None:
    original = seeded(MobileViTV2ForSemanticSegmentation(huggingface_config_v2(output_stride=output_stride)))
    hints = Hints(config=original.config.to_dict())
    model, _, dropped = rebuilt(mobilevitv2, "huggingface", original.state_dict(), hints)
    assert set(dropped.values()) == {"segmentation head"}
    with torch.inference_mode():
        final, _ = features(model, images())
        same(final, original.mobilevitv2(images()).last_hidden_state)
    assert final.shape[2] == 64 // output_stride


def test_cvnets_names_give_the_same_logits_and_the_core_ml_buffer_is_dropped() -> None:
    original = published_shape(2)
    foreign = {**cvnets_names(original, 2), "layer_3.1.unfolding_weights": torch.zeros(4, 1, 2, 2)}
    model, spec, dropped = rebuilt(mobilevitv2, "cvnets", foreign, Hints())
    with torch.inference_mode():
        same(model(images()), original(images()))
    assert list(dropped) == ["layer_3.1.unfolding_weights"]
    assert (spec.preprocessing.channel_order, spec.preprocessing.crop) == ("rgb", 0.888)


def test_a_weight_that_is_left_over_or_meant_twice_is_named() -> None:
    foreign = cvnets_names(published_shape(2), 2)
    with pytest.raises(WeightsMismatch, match=r"layer_3\.1\.fusion\.block\.conv\.weight"):
        BY_NAME["cvnets"].convert({**foreign, "layer_3.1.fusion.block.conv.weight": torch.zeros(1)}, Hints())
    twice = {**foreign, "layer_3.1.global_rep.9.weight": torch.zeros(32)}
    with pytest.raises(WeightsMismatch, match=r"mean stages\.2\.1\.norm\.weight"):
        BY_NAME["cvnets"].convert(twice, Hints())


def test_the_two_versions_do_not_take_each_others_checkpoints() -> None:
    files = {
        "timm": tiny(2).state_dict(),
        "huggingface": MobileViTV2Model(huggingface_config_v2()).state_dict(),
        "cvnets": cvnets_names(published_shape(2), 2),
    }
    for holder, state in files.items():
        assert [name for name, naming in BY_NAME.items() if not naming.missing(state)] == [holder]
        assert all(naming.missing(state) for naming in mobilevit.NAMINGS)
