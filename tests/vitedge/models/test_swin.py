# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import timm
import torch
from timm.models.swin_transformer import SwinTransformer, checkpoint_filter_fn

from tests.seeding import seeded
from tests.vitedge.checkpoints.rebuild import images, relative_error
from tests.vitedge.models.exporting import worst_error_over_batches
from vitedge.checkpoints.families import swin as family
from vitedge.checkpoints.families.family import Hints
from vitedge.errors import ImpossibleSize
from vitedge.models import swin as builder
from vitedge.records import ModelSpec

TINY: dict[str, Any] = {
    "patch_size": 2,
    "embed_dim": 24,
    "depths": (2, 2),
    "num_heads": (2, 4),
    "num_classes": 5,
}


def tiny(size: int = 16, window: int = 4, **changes: Any) -> tuple[SwinTransformer, ModelSpec]:
    model = seeded(SwinTransformer(**{**TINY, "img_size": size, "window_size": window, **changes}))
    return model, family.infer(model.state_dict(), "timm", Hints())


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("swin_tiny_patch4_window7_224", 28_288_354),
        ("swin_small_patch4_window7_224", 49_606_258),
        ("swin_base_patch4_window7_224", 87_768_224),
    ],
)
def test_published_models_have_their_number_of_parameters(name: str, parameters: int) -> None:
    with torch.device("meta"):
        state = timm.create_model(name).state_dict()
        module = builder.build(family.infer(state, "timm", Hints()))
    assert sum(parameter.numel() for parameter in module.parameters()) == parameters
    assert {key: value.shape for key, value in module.state_dict().items()} == {k: v.shape for k, v in state.items()}


def test_two_stages_of_unequal_windows_are_not_taken_for_height_and_width() -> None:
    model, spec = tiny(window=4, size=12)  # maps of 6 and 3
    assert spec.options["window"] == (4, 3)
    module = builder.build(spec)
    module.load_state_dict(model.state_dict())
    assert relative_error(module(images(12)), model(images(12))) == 0


@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")  # timm indexes so
@pytest.mark.filterwarnings("ignore:torch.searchsorted")
@pytest.mark.parametrize("size", [(12, 12), (24, 24), (8, 20), (18, 14)])
def test_another_size_is_what_timm_makes_of_the_same_weights(size: tuple[int, int]) -> None:
    model, spec = tiny()
    expected = SwinTransformer(**TINY, img_size=size, window_size=4).eval()
    expected.load_state_dict(checkpoint_filter_fn(model.state_dict(), expected))
    state, resized = builder.resize(model.state_dict(), spec, size)
    module = builder.build(resized)
    module.load_state_dict(state)
    batch = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    assert resized.image_size == size
    assert resized.options["window"] == spec.options["window"]
    assert relative_error(module(batch), expected(batch)) < 1e-5


def test_shrinking_resamples_only_the_tables_of_windows_that_shrink() -> None:
    model, spec = tiny()
    state, _ = builder.resize(model.state_dict(), spec, (12, 12))
    shapes = {name: tuple(state[name].shape) for name in state if name.endswith("table")}
    assert shapes["layers.0.blocks.0.attn.relative_position_bias_table"] == (49, 2)
    assert shapes["layers.1.blocks.0.attn.relative_position_bias_table"] == (25, 4)
    assert torch.equal(state["head.fc.weight"], model.state_dict()["head.fc.weight"])


def test_sizes_that_cannot_work_name_those_that_can() -> None:
    model, spec = tiny()
    with pytest.raises(ImpossibleSize, match="14x14 or 16x16"):
        builder.resize(model.state_dict(), spec, (15, 15))
    with pytest.raises(ImpossibleSize, match="multiples of 2 from 4 up"):
        builder.resize(model.state_dict(), spec, (2, 2))


def test_features_are_the_normed_map_and_what_the_head_reads() -> None:
    model, _ = tiny()
    last, pooled = builder.features(model, images(16))
    assert last.shape == (2, 48, 4, 4)
    assert relative_error(last.mean((2, 3)), pooled) < 1e-5
    assert relative_error(model.head.fc(pooled), model(images(16))) == 0


def test_blocks_are_single_tensors_in_order_of_execution() -> None:
    model, spec = tiny()
    seen: list[str] = []
    for name in builder.blocks(spec):
        module = model.get_submodule(name)
        module.register_forward_hook(lambda _m, _i, out, name=name: seen.append(name) if out.ndim == 4 else None)
    model(images(16))
    assert tuple(seen) == builder.blocks(spec)
    assert seen[:3] == ["patch_embed", "layers.0.blocks.0", "layers.0.blocks.1"]
    assert seen[3:5] == ["layers.1.downsample", "layers.1.blocks.0"]


@pytest.mark.filterwarnings("ignore")  # notices of the exporter about itself
@pytest.mark.parametrize(
    ("size", "pad_first"), [((16, 16), False), ((12, 20), True)], ids=["whole windows", "padded windows"]
)
def test_a_dynamic_batch_reaches_onnx(size: tuple[int, int], pad_first: bool) -> None:
    model, spec = tiny()
    spec = replace(spec, options={**spec.options, "pad_first": pad_first})
    state, resized = builder.resize(model.state_dict(), spec, size)
    module = builder.build(resized)
    module.load_state_dict(state)
    assert worst_error_over_batches(module, size) < 2e-5
