# SPDX-License-Identifier: Apache-2.0
from typing import Any

import pytest
import torch
from timm.models.pit import PoolingVisionTransformer

from tests.seeding import seeded
from vitedge.checkpoints.families.family import Hints, State
from vitedge.checkpoints.families.pit import NAMINGS, infer
from vitedge.errors import BadRecipe, UnknownArchitecture, WeightsMismatch
from vitedge.models.pit import build
from vitedge.records import Origin

BY_NAME = {naming.name: naming for naming in NAMINGS}


def tiny(**settings: object) -> PoolingVisionTransformer:
    defaults = {
        "img_size": 32,
        "patch_size": 8,
        "stride": 4,
        "base_dims": [16, 16],
        "depth": [1, 2],
        "heads": [2, 4],
        "mlp_ratio": 2,
        "num_classes": 5,
    }
    return seeded(PoolingVisionTransformer(**{**defaults, **settings}))


def naver_names(state: State) -> State:
    """What the naver-ai code calls the same weights: the pools are a list of their own beside the stages."""
    names = {name: name for name in state}
    for stage in (1, 2):
        for part in ("conv.weight", "conv.bias", "fc.weight", "fc.bias"):
            if f"transformers.{stage}.pool.{part}" in names:
                names[f"transformers.{stage}.pool.{part}"] = f"pools.{stage - 1}.{part}"
    return {new: state[old] for old, new in names.items()}


def test_every_fact_of_a_custom_model_is_found_and_its_origin_is_told() -> None:
    spec = infer(tiny(distilled=True).state_dict(), "timm", Hints())
    assert (spec.widths, spec.depths, spec.heads, spec.mlp_ratios) == ((32, 64), (1, 2), (2, 4), (2.0, 2.0))
    assert (spec.patch, spec.options, spec.image_size, spec.classes) == (8, {"stride": 4}, (32, 32), 5)
    assert spec.tokens == ("class", "distillation")
    assert spec.variant == "custom PiT (widths 32-64, depths 1-2) distilled"
    assert (spec.norm_eps, spec.activation) == (1e-6, "gelu")
    assert spec.origins["widths"] is Origin.SHAPE
    assert spec.origins["heads"] is Origin.ASSUMED
    assert spec.origins["preprocessing.mean"] is Origin.TABLE
    assert any("--set heads=" in note for note in spec.notes)


@pytest.mark.parametrize("distilled", [False, True])
@pytest.mark.parametrize("bases", [[16, 16], [16, 16, 16]])
def test_naver_names_give_the_same_logits(distilled: bool, bases: list[int]) -> None:
    stages = len(bases)
    model = tiny(distilled=distilled, base_dims=bases, depth=[1] * stages, heads=[2, 4, 8][:stages])
    foreign = naver_names(model.state_dict())
    assert any(name.startswith("pools.") for name in foreign)
    assert BY_NAME["naver"].missing(foreign) == ()
    state = BY_NAME["naver"].convert(foreign, Hints()).state
    spec = infer(state, "naver", Hints())
    rebuilt = build(spec)
    rebuilt.load_state_dict(state)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        torch.testing.assert_close(rebuilt(images), model(images), rtol=1e-5, atol=1e-6)


def test_timm_names_do_not_pass_for_naver_names() -> None:
    names = tiny().state_dict()
    assert BY_NAME["naver"].missing(names) == (r"pools\.0\.conv\.weight",)
    assert BY_NAME["timm"].missing(names) == ()


def test_a_weight_that_naver_does_not_have_is_refused() -> None:
    foreign = {**naver_names(tiny().state_dict()), "saliency.weight": torch.zeros(1)}
    with pytest.raises(WeightsMismatch, match=r"saliency\.weight"):
        BY_NAME["naver"].convert(foreign, Hints())


@pytest.mark.parametrize(
    ("size", "patch", "stride"), [(224, 16, 8), (224, 14, 7), (64, 8, 8), (64, 4, 2), (224, 16, 16)]
)
def test_stride_and_image_size_follow_from_grid_and_kernel(size: int, patch: int, stride: int) -> None:
    spec = infer(tiny(img_size=size, patch_size=patch, stride=stride).state_dict(), "timm", Hints())
    assert (spec.image_size, spec.options["stride"]) == ((size, size), stride)


@pytest.mark.parametrize(
    ("size", "config", "origin"),
    [
        (36, {}, Origin.ASSUMED),
        (36, {"stride": 5}, Origin.SHAPE),
        (42, {}, Origin.SHAPE),
        (42, {"architecture": "pit_ti_224"}, Origin.ASSUMED),
    ],
)
def test_a_stride_that_only_an_image_size_speaks_for_is_assumed(
    size: int, config: dict[str, Any], origin: Origin
) -> None:
    state = tiny(img_size=36, patch_size=6, stride=5).state_dict()
    spec = infer(state, "timm", Hints({"image_size": size, **config}))
    assert (spec.origins["options.stride"], spec.options["stride"]) == (origin, 5 if size == 36 else 6)


def test_the_image_size_the_user_gives_decides_the_stride() -> None:
    state = tiny(img_size=36, patch_size=6, stride=5).state_dict()
    spec = infer(state, "timm", Hints(overrides={"image_size": (36, 36)}))
    assert (spec.options["stride"], spec.image_size) == (5, (36, 36))
    assert spec.origins["image_size"] is Origin.GIVEN
    with pytest.raises(BadRecipe, match="300x300"):
        infer(state, "timm", Hints(overrides={"image_size": (300, 300)}))


def test_a_configured_image_size_that_cannot_be_right_is_not_believed() -> None:
    spec = infer(tiny().state_dict(), "timm", Hints(config={"input_size": (3, 224, 224)}))
    assert spec.image_size == (32, 32)


def test_heads_that_the_user_gives_are_taken_and_checked() -> None:
    state = tiny().state_dict()
    assert infer(state, "timm", Hints(overrides={"heads": (1, 8)})).heads == (1, 8)
    with pytest.raises(BadRecipe, match="5-7"):
        infer(state, "timm", Hints(overrides={"heads": (5, 7)}))


def test_timm_configuration_gives_preprocessing_and_labels() -> None:
    config = {"mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2), "crop_pct": 1.0, "interpolation": "bilinear"}
    spec = infer(tiny().state_dict(), "timm", Hints(config={**config, "label_names": list("abcde")}))
    assert (spec.preprocessing.mean, spec.preprocessing.std) == ((0.5,) * 3, (0.2,) * 3)
    assert (spec.preprocessing.crop, spec.preprocessing.interpolation) == (1.0, "bilinear")
    assert spec.origins["preprocessing.crop"] is Origin.CONFIG
    assert spec.origins["preprocessing.channel_order"] is Origin.TABLE
    assert spec.labels == tuple("abcde")


def test_a_grey_and_headless_model_is_read() -> None:
    spec = infer(tiny(in_chans=1, num_classes=0).state_dict(), "timm", Hints())
    assert (spec.in_channels, spec.classes, len(spec.preprocessing.mean)) == (1, 0, 1)
    assert spec.origins["preprocessing.mean"] is Origin.ASSUMED


def test_what_is_no_pit_is_refused_in_one_sentence() -> None:
    state = tiny().state_dict()
    with pytest.raises(UnknownArchitecture, match="position embedding"):
        infer({**state, "pos_embed": torch.zeros(1, 50, 32)}, "timm", Hints())
    with pytest.raises(UnknownArchitecture, match="MLP ratio"):
        infer({**state, "transformers.1.blocks.0.mlp.fc1.weight": torch.zeros(192, 64)}, "timm", Hints())
    without = {name: tensor for name, tensor in state.items() if name != "pos_embed"}
    with pytest.raises(WeightsMismatch, match="pos_embed"):
        infer(without, "timm", Hints())
