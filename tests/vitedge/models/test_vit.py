# SPDX-License-Identifier: Apache-2.0
import dataclasses
from typing import Any

import pytest
import timm
import torch
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import Tensor, nn

from tests.seeding import seeded
from tests.vitedge.checkpoints.vit_rebuilding import assert_equal, convert, images_for, rebuild
from vitedge.errors import ImpossibleSize
from vitedge.files.plain import from_dict, to_dict
from vitedge.models import vit
from vitedge.records import ModelSpec, Origin, Preprocessing

TINY: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 128,
    "depth": 2,
    "num_heads": 2,
    "num_classes": 5,
}

PARAMETERS = {
    "vit_tiny_patch16_224": 5_717_416,
    "vit_small_patch16_224": 22_050_664,
    "vit_base_patch16_224": 86_567_656,
    "vit_base_patch32_224": 88_224_232,
    "vit_large_patch16_224": 304_326_632,
    "vit_huge_patch14_224": 632_045_800,
    "deit_tiny_patch16_224": 5_717_416,
    "deit_tiny_distilled_patch16_224": 5_910_800,
    "deit_small_patch16_224": 22_050_664,
    "deit_small_distilled_patch16_224": 22_436_432,
    "deit_base_patch16_224": 86_567_656,
    "deit_base_distilled_patch16_224": 87_338_192,
    "deit3_small_patch16_224": 22_059_496,
}

SOURCES = {
    "vit": "vit_tiny_patch16_224",
    "mean": "vit_medium_patch16_gap_256",
    "deit distilled": "deit_tiny_distilled_patch16_224",
    "deit-iii": "deit3_small_patch16_224",
    "registers": "vit_small_patch14_reg4_dinov2",
}


def _source(name: str = "vit_tiny_patch16_224", **settings: Any) -> nn.Module:
    return seeded(timm.create_model(name, **{**TINY, **settings}))


def _spec(**options: Any) -> ModelSpec:
    return ModelSpec(
        family="vit",
        variant="custom",
        naming="timm",
        image_size=(32, 32),
        in_channels=3,
        classes=5,
        widths=(128,),
        depths=(2,),
        heads=(2,),
        mlp_ratios=(4.0,),
        patch=8,
        tokens=("class",),
        norm_eps=1e-6,
        activation="gelu",
        preprocessing=Preprocessing((0.5,) * 3, (0.5,) * 3),
        options=options,
    )


@pytest.mark.parametrize("name", PARAMETERS)
def test_published_models_have_their_number_of_parameters_and_no_memory_is_taken(name: str) -> None:
    with torch.device("meta"):
        state = timm.create_model(name, num_classes=1000).state_dict()
        module = vit.build(convert(state)[1])
    assert sum(parameter.numel() for parameter in module.parameters()) == PARAMETERS[name]
    assert {parameter.device.type for parameter in module.parameters()} == {"meta"}
    assert not module.training
    assert list(module.state_dict()) == list(state)


@pytest.mark.parametrize("name", ["vit_base_r50_s16_224", "vit_tiny_r_s16_p8_224"])
def test_a_hybrid_is_built_without_memory(name: str) -> None:
    with torch.device("meta"):
        state = timm.create_model(name).state_dict()
        module = vit.build(convert(state)[1])
    assert {key: value.shape for key, value in module.state_dict().items()} == {
        key: value.shape for key, value in state.items()
    }


@pytest.mark.parametrize("size", [(48, 48), (16, 16), (24, 56)])
@pytest.mark.parametrize("case", SOURCES)
@torch.inference_mode()
def test_another_image_size_is_what_timm_makes_of_the_weights(case: str, size: tuple[int, int]) -> None:
    source = _source(SOURCES[case])
    converted, spec = convert(source.state_dict())
    state, resized = vit.resize(converted.state, spec, size)
    module = vit.build(resized)
    module.load_state_dict(state, strict=True)
    theirs = timm.create_model(SOURCES[case], **{**TINY, "img_size": size}).eval()
    theirs.load_state_dict(checkpoint_filter_fn(dict(source.state_dict()), theirs))
    images = images_for(resized)
    assert resized.image_size == size
    assert resized.origins["image_size"] is Origin.GIVEN
    assert_equal(module(images), theirs(images))


def test_a_size_that_is_no_multiple_of_the_patch_is_refused() -> None:
    converted, spec = convert(_source().state_dict())
    with pytest.raises(ImpossibleSize, match=r"30x30 .* patch of 8 pixels; .* 24x24 or 32x32"):
        vit.resize(converted.state, spec, (30, 30))


@torch.inference_mode()
def test_a_hybrid_at_another_size() -> None:
    source = _source("vit_base_r50_s16_224", img_size=32, patch_size=1, depth=1)
    converted, spec = convert(source.state_dict())
    state, resized = vit.resize(converted.state, spec, (64, 64))
    module = vit.build(resized)
    module.load_state_dict(state, strict=True)
    assert state["pos_embed"].shape == (1, 17, 128)
    assert module(images_for(resized)).shape == (2, 5)
    with pytest.raises(ImpossibleSize, match="patch of 16"):
        vit.resize(converted.state, spec, (40, 40))


@pytest.mark.parametrize("case", SOURCES)
@torch.inference_mode()
def test_features_are_what_the_head_reads(case: str) -> None:
    source = _source(SOURCES[case])
    module, spec, _ = rebuild(source.state_dict())
    images = images_for(spec)
    tokens, pooled = vit.features(module, images)
    assert_equal(tokens, source.forward_features(images))
    logits = module(images)
    if case == "deit distilled":
        pooled_logits = (module.head(tokens[:, 0]) + module.head_dist(tokens[:, 1])) / 2
    else:
        pooled_logits = module.head(pooled)
    assert torch.allclose(logits, pooled_logits, atol=1e-6)
    assert tokens.shape[1] == 16 + module.num_prefix_tokens


@pytest.mark.parametrize("case", SOURCES)
@torch.inference_mode()
def test_every_block_is_a_module_with_one_tensor(case: str) -> None:
    module, spec, _ = rebuild(_source(SOURCES[case]).state_dict())
    seen: list[str] = []

    def remember(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            assert isinstance(output, Tensor)
            seen.append(name)

        return hook

    for name in vit.blocks(spec):
        module.get_submodule(name).register_forward_hook(remember(name))
    module(images_for(spec))
    assert tuple(seen) == vit.blocks(spec)
    assert seen[:3] == ["patch_embed", "blocks.0", "blocks.1"]


KINDS: dict[str, ModelSpec] = {
    "plain": _spec(),
    "headless": dataclasses.replace(_spec(), classes=0),
    "pre_logits": _spec(pre_logits=24),
    "class and mean": _spec(pool="class+mean"),
    "fc_norm": _spec(pool="mean", final_norm="pooled"),
    "swiglu": dataclasses.replace(_spec(mlp="swiglu", layer_scale=True), activation="silu"),
    "distilled": dataclasses.replace(_spec(distillation_head=True), tokens=("class", "distillation")),
    "distillation token only": dataclasses.replace(_spec(), tokens=("class", "distillation")),
    "registers": dataclasses.replace(_spec(registers=4, position_prefix=False), tokens=("class", "register")),
    "stem": dataclasses.replace(_spec(stem="resnet", stem_depths=[1], stem_patch=2)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_captured_by_torch_export_with_a_dynamic_batch(kind: str) -> None:
    module = seeded(vit.build(KINDS[kind]))
    images = images_for(KINDS[kind], 3)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(module, (images[:2],), dynamic_shapes=({0: batch},))
    with torch.inference_mode():
        assert_equal(program.module()(images), module(images))
    assert "batch_norm" not in str(program.graph), "the stem's weights are standardized before"


@pytest.mark.parametrize("kind", KINDS)
def test_a_spec_survives_json(kind: str) -> None:
    spec = from_dict(ModelSpec, to_dict(KINDS[kind]))
    assert spec == KINDS[kind]
    assert vit.build(spec).state_dict().keys() == vit.build(KINDS[kind]).state_dict().keys()


def test_an_option_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="no option windows"):
        vit.build(_spec(windows=7))


@pytest.mark.parametrize("hidden", [1, 77, 129, 341])
def test_any_width_of_the_mlp_is_met_exactly(hidden: int) -> None:
    spec = dataclasses.replace(_spec(), mlp_ratios=(hidden / 128,))
    assert vit.build(spec).get_submodule("blocks.0.mlp.fc1").weight.shape[0] == hidden


def test_the_norms_carry_the_specs_epsilon() -> None:
    module = vit.build(dataclasses.replace(_spec(), norm_eps=1e-12))
    assert {each.eps for each in module.modules() if isinstance(each, nn.LayerNorm)} == {1e-12}
