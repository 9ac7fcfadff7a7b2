# SPDX-License-Identifier: Apache-2.0
"""Tests of `structured`, `refitting`, `stream`, `draft`, `journal` and `costs`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.vitedge.pruning import models
from vitedge.errors import BadRecipe
from vitedge.models.blocks import transformer_blocks
from vitedge.models.cost import count_gmacs
from vitedge.models.reference import Reference, skeleton
from vitedge.pruning.costs import count_prices
from vitedge.pruning.draft import Draft
from vitedge.pruning.journal import Journal
from vitedge.pruning.parts import find_parts
from vitedge.pruning.recipe import PruningRecipe
from vitedge.pruning.structured import prune_structured, rank, sizes_of_fractions


def quiet(_line: str) -> None:
    """Tells nobody."""


def pruned(draft: Draft, recipe: PruningRecipe, folder: Path) -> Draft:
    journal = Journal("key", folder)
    rankings = rank(draft, recipe, journal, quiet)
    prune_structured(draft, recipe, rankings, sizes_of_fractions(rankings, recipe), journal, quiet)
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


@pytest.mark.parametrize("criterion", ["activation", "taylor", "magnitude"])
def test_planted_dead_heads_and_units_go_first(criterion: str, tmp_path: Path) -> None:
    dense = models.loaded("vit", tmp_path)
    draft = models.draft(dense)
    for part in find_parts(draft.module, 8):
        weight: Tensor = draft.module.get_submodule(part.consumer).weight  # type: ignore[assignment]
        weight.view(len(weight), part.units, -1)[:, 1] = 0
    rankings = rank(draft, PruningRecipe(mlp=0.5, criterion=criterion), Journal("key", tmp_path), quiet)
    assert [ranking.order[-1] for ranking in rankings] == [1] * len(rankings)
    assert all(list(ranking.losses) == list(ranking.part.sizes) for ranking in rankings)


@pytest.mark.parametrize("kind", ["vit", "swin", "mobilevit"])
def test_prices_add_up_to_the_cost_of_the_pruned_model(kind: str, tmp_path: Path) -> None:
    dense = models.loaded(kind, tmp_path)
    draft = models.draft(dense, 4)
    recipe = PruningRecipe(macs=0.8, criterion="magnitude", repair=False)
    journal = Journal("key", tmp_path)
    rankings = rank(draft, recipe, journal, quiet)
    sizes = count_prices(dense.spec, 8).sizes(rankings, 0.8, "macs")
    prune_structured(draft, recipe, rankings, sizes, journal, quiet)
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
        rank(draft, PruningRecipe(mlp=0.5), Journal("key", tmp_path), quiet)
