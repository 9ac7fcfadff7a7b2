# SPDX-License-Identifier: Apache-2.0
"""Tests of `saved`: files of vitedge are read back without anything beside them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from tests.vitedge.pruning import models
from vitedge.checkpoints import saved
from vitedge.checkpoints.read import read
from vitedge.errors import UserError
from vitedge.models.reference import load_reference
from vitedge.records import BlockWidths, CheckpointIdentity, Step

STEP = Step("prune", CheckpointIdentity("a.pth", "0" * 64, 1, "model"), {"mlp": 0.5}, {"images": 2})


@pytest.mark.parametrize("kind", models.FAMILIES)
def test_what_was_saved_is_read_back(kind: str, tmp_path: Path) -> None:
    reference = models.loaded(kind, tmp_path)
    path = tmp_path / "saved.safetensors"
    saved.save(path, reference.module.state_dict(), reference.spec, (STEP,))
    found = read(str(path), overrides={"mean": 0.25})
    again = load_reference(found)
    image = torch.rand(2, found.spec.in_channels, *found.spec.image_size)
    assert again.module.state_dict().keys() == reference.module.state_dict().keys()
    for name, tensor in reference.module.state_dict().items():
        assert torch.equal(again.module.state_dict()[name], tensor), name
    torch.testing.assert_close(again.module(image), reference.module(image), rtol=1e-6, atol=1e-6)
    assert found.steps == (STEP,)
    assert found.spec.preprocessing.mean == (0.25,) * 3
    resized = load_reference(found, (96, 64))
    assert resized.spec.image_size == (96, 64)


def test_a_damaged_description_is_one_sentence(tmp_path: Path) -> None:
    reference = models.loaded("vit", tmp_path)
    path = tmp_path / "saved.safetensors"
    saved.save(path, reference.module.state_dict(), reference.spec, ())
    with safe_open(path, "pt") as file:
        content = json.loads(file.metadata()[saved.KEY])
    cases = {
        "{": "is damaged",
        "[]": "is damaged",
        json.dumps({**content, "format_version": 9}): "pip install -U vitedge",
        json.dumps({**content, "extra": 1}): "is damaged",
        json.dumps({**content, "spec": {**content["spec"], "depths": "many"}}): "is damaged",
    }
    for text, sentence in cases.items():
        save_file(reference.module.state_dict(), path, {saved.KEY: text})
        with pytest.raises(UserError, match=sentence):
            read(str(path))


def test_what_the_weights_settle_cannot_be_set(tmp_path: Path) -> None:
    reference = models.loaded("vit", tmp_path)
    path = tmp_path / "saved.safetensors"
    saved.save(path, reference.module.state_dict(), reference.spec, ())
    with pytest.raises(UserError, match="its heads cannot be set"):
        read(str(path), overrides={"heads": 6})


def test_a_spec_that_does_not_fit_its_weights_is_refused(tmp_path: Path) -> None:
    reference = models.loaded("vit", tmp_path)
    path = tmp_path / "saved.safetensors"
    for blocks in (
        (BlockWidths(3, 16, 64),) * 2,
        (BlockWidths(3, 16, 4096),) * 2,
        (BlockWidths(-1, 16, 96),) * 2,
        (BlockWidths(3, 16, 96),),
    ):
        saved.save(path, reference.module.state_dict(), dataclasses.replace(reference.spec, blocks=blocks), ())
        with pytest.raises(UserError, match=r"hidden units|instead of|2 blocks|model 2"):
            load_reference(read(str(path)))
