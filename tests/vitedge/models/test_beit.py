# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from timm.models.beit import Beit
from torch import nn

from tests.seeding import seeded
from tests.vitedge.checkpoints.rebuild import images, relative_error
from tests.vitedge.models.exporting import worst_error_over_batches
from vitedge.checkpoints.families import beit as family
from vitedge.checkpoints.families.family import Hints
from vitedge.errors import ImpossibleSize
from vitedge.models import beit as builder
from vitedge.records import ModelSpec

KINDS: dict[str, dict[str, Any]] = {
    "blocks": {"use_rel_pos_bias": True, "use_abs_pos_emb": False, "init_values": 0.1},
    "shared": {"use_shared_rel_pos_bias": True, "use_abs_pos_emb": True, "global_pool": "token"},
}


def tiny(kind: str) -> tuple[Beit, ModelSpec]:
    model = seeded(
        Beit(
            img_size=32,
            patch_size=8,
            embed_dim=48,
            depth=2,
            num_heads=4,
            num_classes=5,
            norm_layer=lambda width, **_: nn.LayerNorm(width, eps=1e-6),
            **KINDS[kind],
        )
    )
    return model, family.infer(model.state_dict(), "timm", Hints())


def test_the_published_model_has_its_number_of_parameters() -> None:
    with torch.device("meta"):
        state = timm.create_model("beit_base_patch16_224").state_dict()
        module = builder.build(family.infer(state, "timm", Hints()))
    assert sum(parameter.numel() for parameter in module.parameters()) == 86_530_984
    assert {key: value.shape for key, value in module.state_dict().items()} == {k: v.shape for k, v in state.items()}


@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")  # timm indexes so
@pytest.mark.filterwarnings("ignore:torch.searchsorted")
@pytest.mark.parametrize("size", [(48, 48), (24, 24), (24, 56)])
@pytest.mark.parametrize("kind", KINDS)
def test_another_size_is_what_timm_makes_of_the_same_weights(kind: str, size: tuple[int, int]) -> None:
    model, spec = tiny(kind)
    state, resized = builder.resize(model.state_dict(), spec, size)
    module = builder.build(resized)
    module.load_state_dict(state)
    model.set_input_size(img_size=size)
    batch = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    assert resized.image_size == size
    assert relative_error(module(batch), model(batch)) < 1e-5


def test_the_same_size_keeps_every_weight() -> None:
    model, spec = tiny("shared")
    state, _ = builder.resize(model.state_dict(), spec, (32, 32))
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_sizes_that_cannot_work_name_those_that_can() -> None:
    model, spec = tiny("blocks")
    with pytest.raises(ImpossibleSize, match="32x32 or 40x40"):
        builder.resize(model.state_dict(), spec, (36, 36))


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_all_tokens_and_what_the_head_reads(kind: str) -> None:
    model, _ = tiny(kind)
    tokens, pooled = builder.features(model, images(32))
    assert tokens.shape == (2, 1 + 16, 48)
    assert relative_error(model.head(pooled), model(images(32))) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_are_single_tensors_in_order_of_execution(kind: str) -> None:
    model, spec = tiny(kind)
    seen: list[str] = []
    for name in builder.blocks(spec):
        module = model.get_submodule(name)
        module.register_forward_hook(lambda _m, _i, out, name=name: seen.append(name) if out.ndim >= 2 else None)
    model(images(32))
    assert tuple(seen) == builder.blocks(spec)
    assert seen[-1] == {"blocks": "fc_norm", "shared": "norm"}[kind]


@pytest.mark.filterwarnings("ignore")  # notices of the exporter about itself
@pytest.mark.parametrize("kind", KINDS)
def test_a_dynamic_batch_reaches_onnx(kind: str) -> None:
    model, spec = tiny(kind)
    module = builder.build(spec)
    module.load_state_dict(model.state_dict())
    assert worst_error_over_batches(module, (32, 32)) < 2e-5
