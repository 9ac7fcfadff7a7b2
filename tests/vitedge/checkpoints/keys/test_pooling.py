# SPDX-License-Identifier: Apache-2.0
"""Weights beside a configuration of timm with another pooling: as timm rebuilds them, refused by name, or noted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from timm import create_model
from torch import Tensor, nn

import vitedge
from tests.family_files import copied
from tests.seeding import seeded
from tests.vitedge.checkpoints.keys import models
from vitedge.errors import UserError

POOLS = ("token", "avg", "max", "avgmax", "map", "")
OWN: dict[str, tuple[dict[str, Any], ...]] = {
    "vit": ({}, {"global_pool": "avg"}, {"global_pool": "avg", "fc_norm": False}, {"global_pool": "map"}),
    "distilled": ({},),
    "beit": ({}, {"global_pool": "token"}, {"use_fc_norm": False}),
    "pit": ({},),
    "swin": ({}, {"global_pool": "max"}),
}
"""Kind of model to the arguments that its weights were made with."""
CASES = [(kind, own) for kind, entries in OWN.items() for own in entries]

pytestmark = pytest.mark.usefixtures("one_thread")


def changed(arguments: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Configurations of timm with another pooling in ``model_args``, none, or one beside them."""
    without = {key: value for key, value in arguments.items() if key != "global_pool"}
    for pool in POOLS:
        yield {"model_args": {**arguments, "global_pool": pool}}
        yield {"model_args": without, "global_pool": pool}
    yield {"model_args": without}


@torch.no_grad()
def by_timm(architecture: str, arguments: dict[str, Any], state: dict[str, Tensor], images: Tensor) -> Tensor | None:
    """The logits of timm; None where these are not the weights of what it builds."""
    try:
        module: nn.Module = create_model(architecture, **arguments)
        module.load_state_dict(state)
        found: Tensor = module.eval()(images)
    except (AssertionError, RuntimeError):
        return None
    return found


def same(found: Tensor, expected: Tensor | None) -> bool:
    if expected is None or found.shape != expected.shape:
        return False
    return bool((found - expected).abs().max() <= 2e-5 * expected.abs().max())


@pytest.mark.parametrize(("kind", "own"), CASES, ids=str)
@torch.no_grad()
def test_another_pooling_than_that_of_the_weights_is_not_taken_in_silence(
    kind: str, own: dict[str, Any], tmp_path: Path
) -> None:
    architecture, _, tiny = models.ARCHITECTURES[kind]
    arguments = {**tiny, **own}
    module = seeded(create_model(architecture, **arguments))
    state = copied(module.state_dict())
    save_file(state, tmp_path / "model.safetensors")
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    refusals = []
    for configuration in changed(arguments):
        (tmp_path / "config.json").write_text(json.dumps({"architecture": architecture, **configuration}))
        try:
            reference = vitedge.load(tmp_path)
        except UserError as error:
            refusals.append((str(error), configuration))
            continue
        found = reference.module(images)
        expected = by_timm(architecture, configuration["model_args"], state, images)
        is_told = any("global_pool = " in note for note in reference.spec.notes)
        assert is_told or same(found, module(images) if expected is None else expected), configuration
    assert not [entry for entry in refusals if "global_pool" not in entry[0]]


def test_a_stated_fc_norm_or_what_the_user_says_goes_before_what_timm_derives(tmp_path: Path) -> None:
    architecture, _, tiny = models.ARCHITECTURES["vit"]
    save_file(copied(seeded(create_model(architecture, **tiny)).state_dict()), tmp_path / "model.safetensors")
    averaged = {**tiny, "global_pool": "avg"}
    cases: tuple[tuple[dict[str, Any], dict[str, Any]], ...] = (
        ({**averaged, "fc_norm": False}, {}),
        (averaged, {"pool": "mean"}),
        (tiny, {"pool": "mean"}),
    )
    for arguments, given in cases:
        (tmp_path / "config.json").write_text(json.dumps({"architecture": architecture, "model_args": arguments}))
        assert vitedge.load(tmp_path, overrides=given).spec.options["pool"] == "mean"
