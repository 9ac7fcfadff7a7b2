# SPDX-License-Identifier: Apache-2.0
"""Tests of `vitedge.verbs.in_memory` and `vitedge.checkpoints.memory`: models in memory, beside the same in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import VisionTransformer
from transformers import ViTConfig, ViTForImageClassification, ViTModel

import vitedge
from tests.seeding import seeded
from tests.vitedge.pruning import models
from vitedge.checkpoints.assumptions import assumed
from vitedge.checkpoints.read import read
from vitedge.errors import UserError
from vitedge.models.reference import load_reference
from vitedge.pruning.recipe import PruningRecipe
from vitedge.verbs.in_memory import in_memory

RECIPE = PruningRecipe(mlp=0.5, images="synthetic", image_count=8, criterion="magnitude")  # type: ignore[arg-type]
CONFIG = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 6, "intermediate_size": 96}


class Holder(nn.Module):
    """A user's wrapper, which computes what the model in it computes."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Any:
        return self.model(image)


class Normalizing(Holder):
    """A user's wrapper that prepares the images."""

    def forward(self, image: Tensor) -> Any:
        return self.model((image - 0.5) / 0.5)


def hugging_face(**settings: Any) -> ViTForImageClassification:
    return ViTForImageClassification(ViTConfig(**CONFIG, image_size=32, patch_size=8, num_labels=3, **settings))


WRAPPED = {
    "transformers": hugging_face,
    "transformers in a wrapper": lambda: Holder(hugging_face()),
    "transformers without a head": lambda: ViTModel(ViTConfig(**CONFIG, image_size=32, patch_size=8)),
    "torchvision": lambda: VisionTransformer(32, 8, 2, 4, 48, 96, num_classes=7),
    "a user's wrapper": lambda: Holder(models.vit()),
    "DataParallel": lambda: nn.DataParallel(Holder(models.vit())),
    "torch.compile": lambda: torch.compile(models.vit()),
    "half precision": lambda: models.vit().half(),
}


@pytest.mark.parametrize("kind", models.FAMILIES)
def test_a_module_is_read_as_its_file_and_nothing_of_it_is_guessed(kind: str) -> None:
    module = seeded(models.FAMILIES[kind]()).train()
    reference = load_reference(read(in_memory(module)))
    assert module.training
    assert not assumed(reference.spec)
    image = torch.rand(2, 3, *reference.spec.image_size)
    assert torch.allclose(reference.module(image), module.eval()(image), atol=1e-4)


@pytest.mark.parametrize("kind", WRAPPED)
def test_modules_of_other_libraries_and_wrappers_are_read_and_left_as_they_are(kind: str) -> None:
    module = seeded(WRAPPED[kind]()).train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    checkpoint = read(in_memory(module))
    assert not assumed(checkpoint.spec)
    assert checkpoint.container == "memory"
    assert module.training
    assert all(tensor.requires_grad for tensor in module.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_the_source_says_what_it_is_and_the_digest_is_that_of_the_weights() -> None:
    module = seeded(models.vit())
    sources = [in_memory(one) for one in (module, nn.DataParallel(module), module.state_dict())]
    assert [str(source) for source in sources] == ["the VisionTransformer in memory"] * 2 + ["the state dict in memory"]
    digests = {read(source).sha256() for source in sources}
    assert len(digests) == 1
    with torch.no_grad():
        module.norm.bias.add_(1e-3)
    assert read(in_memory(module)).sha256() not in digests


def test_a_state_dict_is_read_with_its_arrays_and_from_inside_a_training_checkpoint() -> None:
    state = seeded(models.vit()).state_dict()
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    for content in (arrays, {"epoch": 3, "model": state}):
        found = read(in_memory(content))
        assert torch.equal(found.state["norm.weight"], state["norm.weight"])
        assert assumed(found.spec) == ("heads",)  # no module tells them
    reference = vitedge.load(state, overrides={"heads": (3,)})
    assert reference.module.norm.weight.data_ptr() != state["norm.weight"].data_ptr()


def test_facts_that_no_weight_tells_come_from_the_module() -> None:
    settings = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 1, "num_classes": 5, "num_heads": 6}
    module = seeded(timm.create_model("vit_tiny_patch16_224", **settings, act_layer="gelu_tanh", global_pool="avg"))
    spec = vitedge.inspect(module, labels=list("abcde")).spec
    assert (spec.heads, spec.activation, spec.options["pool"]) == ((6,), "gelu_tanh", "mean")
    assert (spec.preprocessing.mean, spec.labels) == ((0.5,) * 3, tuple("abcde"))
    named = vitedge.inspect(seeded(hugging_face(id2label={0: "cat", 1: "dog", 2: "emu"}))).spec
    assert (named.heads, named.labels) == ((6,), ("cat", "dog", "emu"))


def test_a_module_what_load_returned_and_a_pruned_model_are_pruned_alike(tmp_path: Path) -> None:
    dense = models.loaded("vit", tmp_path)
    before = {name: tensor.clone() for name, tensor in dense.module.state_dict().items()}
    first = vitedge.prune(dense, tmp_path / "first.safetensors", RECIPE)
    vitedge.prune(dense.module, tmp_path / "same.safetensors", RECIPE)
    states = [load_file(tmp_path / f"{name}.safetensors") for name in ("first", "same")]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    assert all(torch.equal(tensor, dense.module.state_dict()[name]) for name, tensor in before.items())
    pruned = vitedge.load(first)
    vitedge.prune(pruned, tmp_path / "second.safetensors", RECIPE)
    widths = [
        [block.mlp for block in vitedge.load(tmp_path / name).spec.blocks]
        for name in ("first.safetensors", "second.safetensors")
    ]
    assert sum(widths[1]) < sum(widths[0]) < 2 * 96


def broken() -> nn.Module:
    module = Holder(seeded(models.vit()))
    module.lock = (entry for entry in ())  # type: ignore[assignment]  # what copy.deepcopy refuses
    return module


REFUSED = {
    "the Linear in memory is of no architecture that vitedge reads": lambda: nn.Linear(3, 4),
    "the Normalizing in memory computes something else than the custom ViT": lambda: Normalizing(seeded(models.vit())),
    "the Identity in memory has no weights": nn.Identity,
    "weight is on the meta device, which holds no values": lambda: nn.Linear(3, 4, device="meta"),
    "cannot be copied to be compared .*: give its state dict instead": broken,
    "got the class Linear: give a module of it": lambda: nn.Linear,
    "A model is a path, a module in memory, a state dict, or what vitedge.load returned; got int": lambda: 3,
    "the state dict in memory holds no weights": dict,
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_what_is_no_model_of_a_family_is_refused_in_a_sentence(sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=sentence) as refused:
        vitedge.prune(REFUSED[sentence](), tmp_path / "p.safetensors", RECIPE)  # type: ignore[arg-type]
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())
