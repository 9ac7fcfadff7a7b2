# SPDX-License-Identifier: Apache-2.0
"""Guessed facts that outputs depend on: which they are, and that nothing is exported on them unasked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from timm.models.pit import PoolingVisionTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import vitedge
from tests.seeding import seeded
from vitedge.checkpoints.assumptions import assumed
from vitedge.errors import BadRecipe
from vitedge.recipe import ExportRecipe


def vit(size: tuple[int, int] = (32, 32)) -> nn.Module:
    return VisionTransformer(img_size=size, patch_size=16, embed_dim=64, depth=1, num_heads=4, num_classes=5)


def pit() -> nn.Module:
    settings = {"img_size": 32, "patch_size": 8, "stride": 4, "mlp_ratio": 2, "num_classes": 5}
    return PoolingVisionTransformer(base_dims=(16, 16, 16), depth=(1, 1, 1), heads=(1, 2, 4), **settings)


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[str, ...]]] = {
    "vit": (vit, ("heads",)),
    "oblong": (lambda: vit((32, 48)), ("heads", "image_size")),
    "pit": (pit, ("image_size", "options.stride", "heads")),
}


@pytest.mark.parametrize("name", CASES)
def test_export_refuses_what_is_guessed(name: str, tmp_path: Path) -> None:
    make, names = CASES[name]
    path = tmp_path / "weights.pth"
    torch.save(seeded(make()).state_dict(), path)
    spec = vitedge.load(str(path)).spec
    assert set(assumed(spec)) == set(names)
    assert any("--set heads=" in note for note in spec.notes)
    with pytest.raises(BadRecipe, match=r"--set heads=.*take the guess with --accept-assumptions\.$") as caught:
        vitedge.export(str(path), tmp_path / "bundle", ExportRecipe())
    assert caught.value.exit_code == 2
    assert not (tmp_path / "bundle").exists()


def test_a_fact_that_is_given_is_no_guess(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(seeded(vit((32, 48))).state_dict(), path)
    spec = vitedge.load(str(path), overrides={"heads": 4, "image_size": "32x48"}).spec
    assert assumed(spec) == ()
    result = vitedge.export(str(path), tmp_path / "bundle", ExportRecipe(accept_assumptions=True, image_count=2))
    assert result.manifest.recipe["accept_assumptions"] is True


def test_notes_vanish_when_they_are_answered(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(seeded(vit()).state_dict(), path)
    answers = {"heads": 4, "mean": 0.5, "std": 0.5}
    assert any("--set mean=" in note for note in vitedge.inspect(str(path)).spec.notes)
    assert vitedge.inspect(str(path), overrides=answers).spec.notes == ()
