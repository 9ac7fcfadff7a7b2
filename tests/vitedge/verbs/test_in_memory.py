# SPDX-License-Identifier: Apache-2.0
"""Tests of `vitedge.verbs.in_memory`: models in memory, beside the same weights in a file."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import nn

import vitedge
from tests.seeding import seeded
from tests.vitedge.pruning import models
from vitedge.checkpoints.assumptions import assumed
from vitedge.errors import UserError
from vitedge.models.reference import load_reference
from vitedge.pruning.recipe import PruningRecipe
from vitedge.verbs.in_memory import in_memory

RECIPE = PruningRecipe(mlp=0.5, images="synthetic", image_count=8, criterion="magnitude")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", models.FAMILIES)
def test_a_module_is_read_as_its_file_and_nothing_of_it_is_guessed(kind: str) -> None:
    module = seeded(models.FAMILIES[kind]()).train()
    with in_memory(module, {}) as checkpoint:
        reference = load_reference(checkpoint)
    assert module.training
    assert not assumed(reference.spec)
    image = torch.rand(2, 3, *reference.spec.image_size)
    assert torch.allclose(reference.module(image), module.eval()(image), atol=1e-4)


def test_facts_that_no_weight_tells_come_from_the_module() -> None:
    settings = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 1, "num_classes": 5, "num_heads": 6}
    module = seeded(timm.create_model("vit_tiny_patch16_224", **settings, act_layer="gelu_tanh", global_pool="avg"))
    with in_memory(module, {"labels": tuple("abcde")}) as checkpoint:
        spec = checkpoint.spec
    assert (spec.heads, spec.activation, spec.options["pool"]) == ((6,), "gelu_tanh", "mean")
    assert (spec.preprocessing.mean, spec.labels) == ((0.5,) * 3, tuple("abcde"))


def test_a_module_what_load_returned_and_a_pruned_model_are_pruned_alike(tmp_path: Path) -> None:
    dense = models.loaded("vit", tmp_path)
    before = {name: tensor.clone() for name, tensor in dense.module.state_dict().items()}
    first = vitedge.prune(dense, tmp_path / "first.safetensors", RECIPE)
    vitedge.prune(dense.module, tmp_path / "same.safetensors", RECIPE)
    states = [load_file(tmp_path / f"{name}.safetensors") for name in ("first", "same")]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    assert all(torch.equal(tensor, dense.module.state_dict()[name]) for name, tensor in before.items())
    pruned = vitedge.load(first.path)
    vitedge.prune(pruned, tmp_path / "second.safetensors", RECIPE)
    widths = [
        [block.mlp for block in vitedge.load(tmp_path / name).spec.blocks]
        for name in ("first.safetensors", "second.safetensors")
    ]
    assert sum(widths[1]) < sum(widths[0]) < 2 * 96


def test_what_is_no_model_of_a_family_is_refused(tmp_path: Path) -> None:
    class Doubled(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.model = inner

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return 2 * torch.as_tensor(self.model(image))

    cases = {
        "the Linear in memory is of no architecture that vitedge reads": nn.Linear(3, 4),
        "the Doubled in memory computes something else than the custom ViT": Doubled(seeded(models.vit())),
    }
    for sentence, module in cases.items():
        with pytest.raises(UserError, match=sentence):
            vitedge.prune(module, tmp_path / "p.safetensors", RECIPE)
    assert not list(tmp_path.iterdir())
