# SPDX-License-Identifier: Apache-2.0
"""Tests of `structured`, `refitting`, `stream`, `draft`, `journal` and `costs`."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path

import pytest
import torch
from timm.models.beit import Beit
from torch import Tensor

from tests.seeding import seeded
from tests.vitedge.models.test_merging import SPEC
from tests.vitedge.pruning import models
from vitedge.errors import BadRecipe
from vitedge.models.blocks import transformer_blocks
from vitedge.models.cost import count_gmacs
from vitedge.models.reference import Reference, skeleton
from vitedge.pruning.costs import count_prices
from vitedge.pruning.draft import Draft
from vitedge.pruning.journal import KEPT_DAYS, Journal
from vitedge.pruning.parts import Kind, find_parts, residual
from vitedge.pruning.recipe import PruningRecipe
from vitedge.pruning.structured import prune_structured, rank, sizes_of_fractions


def pruned(draft: Draft, recipe: PruningRecipe, folder: Path) -> Draft:
    journal = Journal("key", folder)
    rankings = rank(draft, recipe, journal)
    prune_structured(draft, recipe, rankings, sizes_of_fractions(rankings, recipe), journal)
    return draft


def error(draft: Draft) -> float:
    """Squared error of the outputs relative to their power, on the calibration images."""
    with torch.no_grad():
        pairs = [(draft.dense.module(batch), draft.module(batch)) for batch in draft.images]
    dense, found = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    return float((dense - found).square().sum() / dense.square().sum())


@pytest.mark.parametrize("kind", models.FAMILIES)
def test_pruned_models_are_built_again_from_their_spec_and_the_refit_helps(kind: str, tmp_path: Path) -> None:
    dense = models.loaded(kind, tmp_path)
    errors = []
    for repair in (False, True):
        recipe = PruningRecipe(heads=0.67, mlp=0.6, images="synthetic", repair=repair)
        draft = pruned(models.draft(dense), recipe, tmp_path / str(repair))
        errors.append(error(draft))
    built = skeleton(draft.spec)
    built.load_state_dict(draft.module.state_dict(), strict=True, assign=True)
    assert sum(block.heads for block in draft.spec.blocks) < sum(
        block.heads for block in transformer_blocks(dense.module)
    )
    assert count_gmacs(draft.spec) < count_gmacs(dense.spec)
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize("kind", ["vit", "pit", "swin", "mobilevit"])
@pytest.mark.parametrize("criterion", ["activation", "taylor", "magnitude"])
def test_planted_dead_heads_and_units_go_first(criterion: str, kind: str, tmp_path: Path) -> None:
    dense = models.loaded(kind, tmp_path)
    draft = models.draft(dense)
    for part in find_parts(draft.module, 8):
        weight: Tensor = draft.module.get_submodule(part.consumer).weight  # type: ignore[assignment]
        weight.view(len(weight), part.units, -1)[:, 1] = 0
    rankings = rank(draft, PruningRecipe(mlp=0.5, criterion=criterion), Journal("key", tmp_path))
    assert [ranking.order[-1] for ranking in rankings] == [1] * len(rankings)
    assert all(list(ranking.losses) == list(ranking.part.sizes) for ranking in rankings)


@pytest.mark.parametrize("kind", ["vit", "swin", "mobilevit"])
def test_prices_add_up_to_the_cost_of_the_pruned_model(kind: str, tmp_path: Path) -> None:
    dense = models.loaded(kind, tmp_path)
    draft = models.draft(dense, 4)
    recipe = PruningRecipe(macs=0.8, criterion="magnitude", repair=False)
    journal = Journal("key", tmp_path)
    rankings = rank(draft, recipe, journal)
    sizes = count_prices(dense.spec, 8).sizes(rankings, 0.8, "macs")
    prune_structured(draft, recipe, rankings, sizes, journal)
    assert 0.7 < count_gmacs(draft.spec) / count_gmacs(dense.spec) <= 0.8001


def test_a_second_run_takes_what_the_first_has_written(tmp_path: Path) -> None:
    dense = models.loaded("vit", tmp_path)
    recipe = PruningRecipe(heads=0.67, mlp=0.5)
    first = pruned(models.draft(dense), recipe, tmp_path / "journal")
    (tmp_path / "journal" / "key" / "blocks.1.mlp.safetensors").unlink()
    again = pruned(models.draft(dense), recipe, tmp_path / "journal")
    for name, tensor in first.module.state_dict().items():
        assert torch.equal(tensor, again.module.state_dict()[name]), name


def test_a_pruned_model_can_be_pruned_again(tmp_path: Path) -> None:
    dense = models.loaded("vit", tmp_path)
    first = pruned(models.draft(dense), PruningRecipe(mlp=0.75), tmp_path / "first")
    second = models.draft(Reference(first.module, first.spec))
    pruned(second, PruningRecipe(heads=0.67), tmp_path / "second")
    assert [block.mlp for block in second.spec.blocks] == [block.mlp for block in first.spec.blocks]
    assert sum(block.heads for block in second.spec.blocks) == 4


def test_models_that_are_known_by_name_alone_are_refused(tmp_path: Path) -> None:
    draft = models.draft(models.loaded("vit", tmp_path), 4)
    draft.spec = dataclasses.replace(draft.spec, family="timm", variant="xcit_nano")
    with pytest.raises(BadRecipe, match="xcit_nano cannot be pruned"):
        rank(draft, PruningRecipe(mlp=0.5), Journal("key", tmp_path))


def test_a_refit_of_norms_after_the_sums_helps(tmp_path: Path) -> None:
    spec = dataclasses.replace(SPEC, options={"norm_first": False})
    module = seeded(skeleton(spec).to_empty(device="cpu")).requires_grad_(requires_grad=False)
    dense = Reference(module, spec)
    # The sum follows the layer: at the norm behind it the stream has the layer's own output in it.
    assert [residual(module, part)[0] for part in find_parts(module, 8)] == [  # type: ignore[index]
        part.name for part in find_parts(module, 8)
    ]
    errors = []
    for repair in (False, True):
        recipe = PruningRecipe(heads=0.5, mlp=0.5, repair=repair)
        errors.append(error(pruned(models.draft(dense), recipe, tmp_path / str(repair))))
    assert errors[1] < 0.5 * errors[0]


def test_heads_that_all_blocks_share_stay(tmp_path: Path) -> None:
    module = Beit(
        img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=3, num_classes=5, use_shared_rel_pos_bias=True
    )
    assert {part.kind for part in find_parts(module, 8)} == {Kind.MLP}
    draft = models.draft(models.loaded("vit", tmp_path), 4)
    rankings = [
        ranking
        for ranking in rank(draft, PruningRecipe(heads=0.5, criterion="magnitude"), Journal("key", tmp_path))
        if ranking.part.kind is Kind.MLP
    ]
    with pytest.raises(BadRecipe, match=r"--heads 0\.5: this model has no heads that could be removed alone"):
        sizes_of_fractions(rankings, PruningRecipe(heads=0.5))


def test_what_was_left_long_ago_is_deleted(tmp_path: Path) -> None:
    for key in ("old", "young"):
        Journal(key, tmp_path).write("ranking", {"order": torch.arange(2)})
    long_ago = time.time() - (KEPT_DAYS + 1) * 86400
    os.utime(tmp_path / "old", (long_ago, long_ago))
    assert Journal("new", tmp_path).read("ranking") is None
    assert [folder.name for folder in tmp_path.iterdir()] == ["young"]
