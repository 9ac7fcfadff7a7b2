# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from tests.export import tiny
from vitedge.errors import BadRecipe
from vitedge.files.plain import from_dict, to_dict
from vitedge.models.blocks import transformer_blocks
from vitedge.models.reference import Reference
from vitedge.program.sparsity import is_two_of_four
from vitedge.pruning.draft import Batches, Draft
from vitedge.pruning.recipe import PruningRecipe, Selection
from vitedge.pruning.records import Sparsification
from vitedge.pruning.sparse import sparsify, tensor_cores

LAYERS = {"vit": 8, "deit": 8, "beit": 8, "pit": 8, "swin": 6, "mobilevit": 4, "mobilevitv2": 3}
"""Layers that sparse tensor cores take: Swin's first stage has 24 channels, MobileViT v2's attention 33 outputs."""


def draft(name: str, count: int = 12, module: nn.Module | None = None) -> Draft:
    pixels = np.random.default_rng(3).integers(0, 256, (count, 3, tiny.SIZE, tiny.SIZE), dtype=np.uint8)
    dense = Reference(tiny.model(name) if module is None else module, tiny.spec(name))
    images = Batches(pixels, dense.spec.preprocessing)
    return Draft.of(dense, images)


@cache
def made(name: str, selection: Selection = Selection.SPARSEGPT) -> tuple[Draft, Sparsification]:
    begun = draft(name)
    return begun, sparsify(begun, PruningRecipe(sparsity="2:4", selection=selection))


@pytest.mark.parametrize("name", tiny.NAMES)
def test_what_tensor_cores_take_has_the_pattern_and_everything_else_is_as_it_was(name: str) -> None:
    begun, record = made(name)
    sparse = {layer.name: layer for layer in record.layers if layer.pattern == "2:4"}
    dense = dict(begun.dense.module.named_parameters())
    assert len(sparse) == LAYERS[name]
    for key, value in begun.module.named_parameters():
        layer, _, kind = key.rpartition(".")
        if layer not in sparse:
            assert torch.equal(value, dense[key]), key
        elif kind == "weight":
            assert is_two_of_four(value.detach().flatten(1).numpy()), key
            assert sparse[layer].zeros == float((value == 0).sum()) / value.numel() == 0.5
            assert sparse[layer].shape == tuple(value.shape)
            assert sparse[layer].tensor_cores
    for layer in record.layers:
        assert (0 < layer.error < 1) == bool(layer.pattern), layer
        assert layer.reason or len(layer.tensor_cores) == 2
    assert from_dict(Sparsification, to_dict(record)) == record
    assert "processors" in record.note


def _inputs(module: nn.Module, part: nn.Module, images: torch.Tensor) -> torch.Tensor:
    found: list[torch.Tensor] = []
    handle = part.register_forward_pre_hook(lambda _module, arguments: found.append(arguments[0]))
    module(images)
    handle.remove()
    return found[0]


def test_errors_are_those_of_the_layers_and_the_update_has_the_smallest() -> None:
    errors = {one: {layer.name: layer.error for layer in made("vit", one)[1].layers} for one in Selection}
    for name, error in errors[Selection.SPARSEGPT].items():
        assert error < 0.85 * errors[Selection.WANDA][name]
        assert error < 0.85 * errors[Selection.MAGNITUDE][name]
    begun, record = made("vit", Selection.WANDA)
    layers = {one.name: one for one in record.layers}
    images = torch.cat(list(begun.images))
    sparse, dense = (one.get_submodule("blocks.1.mlp.fc2") for one in (begun.module, begun.dense.module))
    with torch.no_grad():
        read = _inputs(begun.module, sparse, images)
        expected = dense(read)
        ratio = float((sparse(read) - expected).norm() / (expected - expected.mean((0, 1))).norm())
    assert layers["blocks.1.mlp.fc2"].error == pytest.approx(ratio, rel=1e-3)


def test_a_fraction_is_for_every_layer_and_helps_no_tensor_core() -> None:
    begun = draft("swin")
    record = sparsify(begun, PruningRecipe(sparsity=0.25, selection="wanda"))
    assert all(layer.pattern == "0.25" and layer.zeros == 0.25 for layer in record.layers)
    assert "stored" in record.note
    assert len(record.layers) == 12


@pytest.mark.parametrize("selection", Selection)
def test_weights_that_have_the_pattern_keep_the_outputs_in_float64(selection: Selection) -> None:
    sparse = copy.deepcopy(made("pit")[0].module)
    images = tiny.images(3).double()
    begun = draft("pit", module=sparse)
    sparsify(begun, PruningRecipe(sparsity="2:4", selection=selection))
    with torch.no_grad():
        assert torch.equal(begun.module.double()(images), sparse.double()(images))


@pytest.mark.parametrize(
    ("shape", "fitting", "reason"),
    [
        ((192, 64), ("fp16", "int8"), ""),
        ((192, 48), ("fp16",), "48 inputs are no multiple of 32 (int8)"),
        ((64, 24), (), "24 inputs are no multiple of 16 (fp16) or of 32 (int8)"),
        ((64, 32, 1, 1), ("fp16", "int8"), ""),
        ((65, 64), (), "65 outputs are no multiple of 8"),
    ],
)
def test_shapes_for_sparse_tensor_cores(shape: tuple[int, ...], fitting: tuple[str, ...], reason: str) -> None:
    assert tensor_cores(shape) == (fitting, reason)


def test_what_cannot_be_is_refused() -> None:
    begun = draft("vit")
    with pytest.raises(BadRecipe, match="No sparsity was asked for: give --sparsity"):
        sparsify(begun, PruningRecipe(heads=0.5))
    for block in transformer_blocks(begun.module):
        for part in (block.attention, block.mlp):
            for name, layer in list(part.named_children()):
                if isinstance(layer, nn.Linear):
                    setattr(part, name, nn.Linear(12, 12))
    with pytest.raises(BadRecipe, match="No layer can become 2:4 sparse: 12 outputs are no multiple of 8; ask for"):
        sparsify(begun, PruningRecipe(sparsity="2:4"))
