# SPDX-License-Identifier: Apache-2.0
"""Tests of `recover`, of `recovery_images` that feed it, and of `recovery_state` from which it goes on."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.export import tiny
from vitedge import progress
from vitedge.errors import BadImages
from vitedge.files.plain import from_dict, to_dict
from vitedge.images.stream import open_images
from vitedge.models.blocks import narrow_heads, narrow_mlp, transformer_blocks
from vitedge.models.reference import Reference
from vitedge.progress import reporting
from vitedge.pruning import recovery_state
from vitedge.pruning.draft import Batches, Draft
from vitedge.pruning.recipe import PruningRecipe
from vitedge.pruning.records import Recovery
from vitedge.pruning.recover import recover
from vitedge.pruning.recovery_images import RecoveryImages

IMAGES = 70
RECIPE = PruningRecipe(mlp=0.5, recover="synthetic", epochs=3)


class KilledError(Exception):
    pass


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("images") / "noise.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (IMAGES, 32, 32, 3), np.uint8))
    return str(path)


def narrowed(name: str = "vit", **changes: Any) -> Draft:
    """A tiny model that has lost a head and half of its hidden units."""
    spec = replace(tiny.spec(name), **changes)
    module = copy.deepcopy(tiny.model(name)).requires_grad_(requires_grad=False)
    draft = Draft.of(Reference(module, spec), Batches(np.zeros((1, 3, 32, 32), np.uint8), spec.preprocessing))
    for block in transformer_blocks(draft.module):
        narrow_heads(block, range(max(1, block.heads - 1)))
        narrow_mlp(block, range(block.hidden // 2))
    return draft


Run = Callable[..., Recovery]


@pytest.fixture
def run(source: str) -> Run:
    def called(draft: Draft, recipe: PruningRecipe = RECIPE, **options: Any) -> Recovery:
        return recover(draft, open_images(source, draft.spec, IMAGES), recipe, **options)

    return called


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_loss_falls_and_the_dense_model_stays(run: Run) -> None:
    draft = narrowed()
    dense = weights(draft.dense.module)
    told: list[str] = []
    with reporting(told.append):
        record = run(draft)
    assert record.after < 0.7 * record.before
    assert np.mean(record.losses[-3:]) < 0.7 * np.mean(record.losses[:2])
    assert (record.images, record.held_out, record.steps, record.epochs) == (63, 7, 6, 3)
    assert 0 < record.best_step <= record.steps
    assert from_dict(Recovery, to_dict(record)) == record
    assert same(weights(draft.dense.module), dense)
    assert told == ["computing the dense model's outputs for 70 images …", "learning …"]
    assert not draft.module.training
    assert not any(value.requires_grad or value.grad is not None for value in draft.module.parameters())


def test_zeros_of_sparse_layers_stay_zeros(run: Run) -> None:
    draft = narrowed()
    sparse = [block.mlp.fc1.weight for block in transformer_blocks(draft.module)]
    for weight in sparse:
        weight.view(-1, 4)[:, ::2] = 0
    before = [weight.clone() for weight in sparse]
    assert run(draft).masked == len(sparse)
    for block, old in zip(transformer_blocks(draft.module), before, strict=True):
        new = block.mlp.fc1.weight
        assert torch.equal(new == 0, old == 0)
        assert not torch.equal(new, old)


def test_batch_norms_keep_their_statistics(run: Run) -> None:
    draft = narrowed("mobilevit")
    statistics = {name: value for name, value in weights(draft.module).items() if "running" in name}
    scales = {name: value for name, value in weights(draft.module).items() if name.endswith("bn.weight")}
    assert run(draft).best_step
    assert statistics
    assert same(weights(draft.module), statistics)
    assert not same(weights(draft.module), scales)


def test_an_encoder_learns_features(run: Run) -> None:
    draft = narrowed(classes=0)
    draft.module.reset_classifier(0)  # type: ignore[operator]
    draft.dense.module.reset_classifier(0)  # type: ignore[operator]
    record = run(draft)
    assert record.after < 0.8 * record.before


def test_a_killed_recovery_goes_on_to_the_same_weights(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery_state, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(recovery_state, "_SAVE_SHARE", 0)
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    whole, interrupted, path = narrowed(), narrowed(), tmp_path / "state"
    expected = run(whole)

    def kill(line: str) -> None:
        if "step 3 of" in line:
            raise KilledError

    with pytest.raises(KilledError), reporting(kill):
        run(interrupted, state_path=path)
    told: list[str] = []
    again = narrowed()
    with reporting(told.append):
        record = run(again, state_path=path)
    assert "step 4 of" in told[2]
    assert same(weights(again.module), weights(whole.module))
    assert replace(record, seconds=0) == replace(expected, seconds=0)
    with reporting(told.append):
        finished = run(narrowed(), state_path=path)
    assert replace(finished, seconds=0) == replace(record, seconds=0)
    assert len(told) == 7  # no step more
    with reporting(told.append):
        other = run(narrowed(), replace(RECIPE, seed=1), state_path=path)
    assert "step 1 of" in told[9]
    assert other.losses != record.losses
    path.write_bytes(path.read_bytes()[:1000])
    assert run(narrowed(), state_path=path).losses == record.losses


@pytest.mark.parametrize("rate", [3.0, 1e30])
def test_it_never_ends_worse_than_it_began(run: Run, rate: float) -> None:
    draft = narrowed()
    before = weights(draft.module)
    record = run(draft, learning_rate=rate)
    assert record.after == record.before
    assert record.best_step == 0
    assert same(weights(draft.module), before)
    assert bool(record.note) == (rate > 1e20)


@pytest.mark.parametrize(("limit", "held_out"), [(IMAGES, 7), (64, 2)])
def test_every_image_that_is_not_held_out_comes_once_an_epoch(source: str, limit: int, held_out: int) -> None:
    spec = tiny.spec("vit")
    (everything,) = open_images(source, spec, IMAGES).batches(IMAGES)
    images = RecoveryImages(open_images(source, spec, IMAGES), 8, 0, limit * everything[0].size)
    assert images.in_memory == (limit == IMAGES)
    assert len(images.held_out) == held_out
    first, second = ([part.pixels for part in images.epoch(number)] for number in (0, 1))
    assert len(first) == images.batches
    assert max(map(len, first)) <= 8
    every = [image.tobytes() for image in (*np.concatenate(first), *images.held_out)]
    assert sorted(every) == sorted(image.tobytes() for image in everything)
    assert not np.array_equal(np.concatenate(first), np.concatenate(second))
    assert sum(map(len, first)) == images.count
    rest = [part.pixels for part in images.epoch(0, skip=2)]
    assert np.array_equal(np.concatenate(rest), np.concatenate(first[2:]))


def test_too_few_images_are_refused(source: str) -> None:
    spec = tiny.spec("vit")
    with pytest.raises(BadImages, match="19 images are too few"):
        RecoveryImages(open_images(source, spec, 19), 8, 0)
