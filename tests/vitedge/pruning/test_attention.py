# SPDX-License-Identifier: Apache-2.0
"""Tests of `attention`, and of `observe.channel_weights`."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.layers.attention import Attention
from timm.models.beit import Attention as BeitAttention
from torch import nn

from tests.vitedge.pruning import models
from vitedge.models.merging import ProportionalAttention
from vitedge.pruning import structured
from vitedge.pruning.attention import Measure, Samples, can_refit, refit_heads
from vitedge.pruning.draft import Draft
from vitedge.pruning.journal import Journal
from vitedge.pruning.observe import channel_weights
from vitedge.pruning.parts import Kind, find_parts
from vitedge.pruning.recipe import PruningRecipe
from vitedge.pruning.records import Structured

ATTENTIONS: dict[str, Callable[[], nn.Module]] = {
    "vit": lambda: Attention(16, num_heads=2, qkv_bias=True),
    "beit": lambda: BeitAttention(16, num_heads=2, qkv_bias=True, window_size=(3, 3)),
}


def samples(attention: nn.Module, count: int, *, noise: float = 0.0) -> Samples:
    """Inputs, and what this attention makes of them."""
    inputs = torch.randn(count, 10, 16) * torch.logspace(0, -1, 16)
    with torch.no_grad():
        targets = attention(inputs)
    return Samples(inputs, targets + noise * torch.randn_like(targets))


def distance(first: nn.Module, second: nn.Module, measure: Measure) -> float:
    fresh = samples(first, 64)
    with torch.no_grad():
        return float(measure(second(fresh.inputs) - fresh.targets))


@pytest.mark.parametrize("kind", ATTENTIONS)
def test_attention_comes_nearer_to_its_targets_on_other_images(kind: str) -> None:
    torch.manual_seed(0)
    true = ATTENTIONS[kind]().eval().requires_grad_(requires_grad=False)
    moved = copy.deepcopy(true)
    for name, parameter in moved.named_parameters():
        if name.startswith(("qkv", "proj")):
            parameter.add_(0.3 * parameter.std() * torch.randn_like(parameter))
    before = copy.deepcopy(moved.state_dict())
    measure = Measure(torch.ones(10), torch.eye(16))
    found = refit_heads(moved, samples(true, 256), samples(true, 64), measure)
    assert all(torch.equal(value, before[name]) for name, value in moved.state_dict().items())
    far = distance(true, moved, measure)
    moved.load_state_dict(found, strict=False)
    assert distance(true, moved, measure) < 0.3 * far


def test_what_held_out_images_do_not_confirm_is_not_taken() -> None:
    torch.manual_seed(0)
    true = ATTENTIONS["vit"]().eval().requires_grad_(requires_grad=False)
    few = samples(true, 2, noise=1.0)
    found = refit_heads(true, few, samples(true, 64), Measure(torch.ones(10), torch.eye(16)))
    own = dict(true.named_parameters())
    assert all(torch.equal(value, own[name]) for name, value in found.items())


def test_windows_and_merged_tokens_are_left_alone(tmp_path: Path) -> None:
    swin: Any = models.loaded("swin", tmp_path).module
    assert can_refit(Attention(16))
    assert not can_refit(ProportionalAttention(16))
    assert not can_refit(swin.layers[0].blocks[0].attn)


def test_channels_that_the_outputs_do_not_read_weigh_least(tmp_path: Path) -> None:
    draft = models.draft(models.loaded("deit", tmp_path))
    module: Any = draft.module
    part = [part for part in find_parts(module, 8) if part.kind is Kind.MLP][-1]
    for layer in (module.head, module.head_dist):
        layer.weight[:, :24] = 0
    weights = channel_weights(module, [part], draft.images, draft.outputs)[part.name]
    diagonal = weights.diagonal()
    assert float(diagonal[:24].mean()) < 0.1 * float(diagonal[24:].mean())  # norms pass some on
    assert float(torch.linalg.eigvalsh(weights)[0]) > 0


def pruned(draft: Draft, folder: Path) -> tuple[nn.Module, Structured]:
    """The draft's module with half of the heads, and what was done."""
    recipe, journal = PruningRecipe(heads=0.5), Journal("key", folder)
    rankings = structured.rank(draft, recipe, journal)
    sizes = structured.sizes_of_fractions(rankings, recipe)
    return draft.module, structured.prune_structured(draft, recipe, rankings, sizes, journal)


def test_blocks_that_lose_heads_are_nearer_to_their_targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dense = models.loaded("beit", tmp_path)
    errors = []
    for limit in (0.0, structured._ATTENDED):
        monkeypatch.setattr(structured, "_ATTENDED", limit)
        _, done = pruned(models.draft(dense, 96), tmp_path / str(limit))
        assert any("keys and values of the heads that stay were not refitted" in note for note in done.notes) == (
            not limit
        )
        errors.append(sum(part.error_after or 0 for part in done.parts if part.kept < part.units))
    assert errors[1] < 0.98 * errors[0]


@pytest.mark.parametrize("kind", ["beit", "swin"])
def test_a_second_run_takes_the_attention_that_the_first_has_written(kind: str, tmp_path: Path) -> None:
    dense = models.loaded(kind, tmp_path)
    first, _ = pruned(models.draft(dense, 32), tmp_path)
    written = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "key").iterdir()}
    assert any(name.endswith("attn.qkv.safetensors") for name in written) == (kind == "beit")
    second, _ = pruned(models.draft(dense, 32), tmp_path)
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "key").iterdir()} == written
    other = second.state_dict()
    assert all(torch.equal(value, other[name]) for name, value in first.state_dict().items())
