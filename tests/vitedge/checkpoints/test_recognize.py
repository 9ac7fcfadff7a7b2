# SPDX-License-Identifier: Apache-2.0
"""Tests of `vitedge.checkpoints.families.timm.spec` and `vitedge.models.timm` too, against timm itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch

from tests.seeding import seeded
from vitedge.checkpoints.read import Checkpoint, read
from vitedge.errors import BadRecipe, ImpossibleSize, UnknownArchitecture, WeightsMismatch
from vitedge.models.reference import load_reference
from vitedge.records import Origin


def written(name: str, path: Path, **settings: object) -> torch.nn.Module:
    module = seeded(timm.create_model(name, **settings), 0).eval()
    torch.save({f"module.{key}": value for key, value in module.state_dict().items()}, path)
    return module


def error(module: torch.nn.Module, checkpoint: Checkpoint) -> float:
    reference = load_reference(checkpoint)
    image = torch.rand((1, reference.spec.in_channels, *reference.spec.image_size))
    with torch.inference_mode():
        expected = module(image)
        return float((reference.module(image) - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize(
    "name", ["vit_pe_spatial_tiny_patch16_512", "edgenext_xx_small", "vit_tiny_patch16_dinov3_qkvb", "levit_128s"]
)
def test_a_model_that_no_family_builds_is_timms(name: str, tmp_path: Path) -> None:
    if not timm.is_model(name):
        pytest.skip(f"this timm has no {name}")
    module = written(name, tmp_path / "model.pth")
    checkpoint = read(str(tmp_path / "model.pth"))
    assert (checkpoint.spec.family, checkpoint.spec.options["model"]) == ("timm", name)
    assert error(module, checkpoint) < 1e-5
    with pytest.raises(ImpossibleSize, match="leave --image-size out"):
        load_reference(checkpoint, (320, 320))


def test_classes_and_channels_are_those_of_the_weights(tmp_path: Path) -> None:
    module = written("edgenext_xx_small", tmp_path / "model.pth", num_classes=5, in_chans=1)
    checkpoint = read(str(tmp_path / "model.pth"))
    assert (checkpoint.spec.classes, checkpoint.spec.in_channels) == (5, 1)
    assert error(module, checkpoint) < 1e-5


def test_an_image_size_that_timm_builds_and_cannot_run_is_refused(tmp_path: Path) -> None:
    written("edgenext_xx_small", tmp_path / "model.pth")
    checkpoint = read(str(tmp_path / "model.pth"), overrides={"image_size": 8})
    with pytest.raises(UnknownArchitecture, match=r"built and run with img_size = \(8, 8\)"):
        load_reference(checkpoint)


def test_a_family_keeps_what_it_builds_alike_and_names_the_others(tmp_path: Path) -> None:
    written("flexivit_small", tmp_path / "model.pth")
    spec = read(str(tmp_path / "model.pth")).spec
    assert spec.family == "vit"
    named = read(str(tmp_path / "model.pth"), overrides={"model": "flexivit_small"}).spec
    assert (named.family, named.origins["options.model"]) == ("timm", Origin.GIVEN)


def test_a_model_by_hand_is_checked(tmp_path: Path) -> None:
    written("edgenext_xx_small", tmp_path / "model.pth")
    with pytest.raises(BadRecipe, match="for these weights: edgenext_xx_small"):
        read(str(tmp_path / "model.pth"), overrides={"model": "edgenext_xxx"})
    with pytest.raises(WeightsMismatch, match="not those of timm's levit_128s"):
        read(str(tmp_path / "model.pth"), overrides={"model": "levit_128s"})
