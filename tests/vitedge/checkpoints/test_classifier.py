# SPDX-License-Identifier: Apache-2.0
"""Which layer is the classifier (`classifier`), whatever the file calls it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import vitedge
from tests.family_matrix import CASES
from tests.vitedge.checkpoints.test_encoders import IMAGES, body, head, model, written
from vitedge.checkpoints.families.family import State
from vitedge.checkpoints.read import read
from vitedge.errors import BadRecipe, WeightsMismatch
from vitedge.models.reference import load_reference
from vitedge.recipe import ExportRecipe

LONE = {"aux_classifier.classifier.weight": torch.ones(7, 50)}
SEVERAL: dict[str, tuple[State, type[Exception]]] = {
    "two": (head("fc") | {"classifier.weight": torch.ones(9, 192)}, BadRecipe),
    "odd": ({"fc.weight": torch.ones(4, 100)}, WeightsMismatch),
    "two layers": ({"fc.0.weight": torch.ones(64, 192), "fc.2.weight": torch.ones(4, 64)}, WeightsMismatch),
    "two layers of two names": ({"fc.weight": torch.ones(64, 192), "out.weight": torch.ones(4, 64)}, WeightsMismatch),
}


@pytest.mark.parametrize("prefix", ["", "backbone."])
@pytest.mark.parametrize("case", SEVERAL)
def test_encoder_alone_needs_no_head(case: str, prefix: str, tmp_path: Path) -> None:
    layers, error = SEVERAL[case]
    path = written(tmp_path, body(prefix) | layers)
    name = prefix.rstrip(".") or "."
    with pytest.raises(error, match=rf"--weights {name.replace('.', r'[.]')}[ ,.]"):
        read(path)
    for found in (read(path, weights=name), read(path, features=True)):
        assert found.spec.classes == 0
        assert set(layers) <= set(found.dropped)


def test_export_of_features_needs_no_head(tmp_path: Path) -> None:
    path = written(tmp_path, body("backbone.") | SEVERAL["two"][0])
    recipe = ExportRecipe(features=True, accept_assumptions=True, image_count=2)
    manifest = vitedge.export(path, tmp_path / "bundle", recipe).manifest
    assert manifest.spec.classes == 0
    assert vitedge.validate(tmp_path / "bundle", against=path).passed


def test_own_head_of_odd_width_is_no_reason_to_refuse_features(tmp_path: Path) -> None:
    path = written(tmp_path, body() | {"head.weight": torch.ones(4, 100)})
    found = read(path, features=True)
    assert (found.spec.classes, list(found.dropped)) == (0, ["head.weight"])


def test_layer_of_another_width_is_no_head(tmp_path: Path) -> None:
    path = written(tmp_path, body("backbone.") | head("fc") | LONE)
    found = read(path)
    assert found.spec.classes == 4
    assert "not taken: fc is it" in found.dropped[next(iter(LONE))]
    with torch.no_grad():
        assert torch.allclose(vitedge.load(path).module(IMAGES), model()(IMAGES), atol=1e-5)


def test_note_says_how_the_head_was_found(tmp_path: Path) -> None:
    path = written(tmp_path, body("model.backbone.") | head("model.fc") | {"model.out.weight": torch.ones(9, 192)})
    with pytest.raises(BadRecipe, match=r"model\.fc and model\.out"):
        read(path)
    found = read(path, weights="model.out")
    assert found.spec.classes == 9
    assert "model.out is the head, as --weights says." in found.spec.notes
    assert "model.fc.weight" in found.dropped
    with pytest.raises(BadRecipe, match="lies within the encoder"):
        read(path, weights="model.backbone.blocks.0.attn.qkv")


@pytest.mark.parametrize(
    ("name", "odd"),
    [
        ("vit google", ("head/kernel", (99, 5))),
        ("mobilevit cvnets", ("classifier.fc.weight", (5, 99))),
        ("pit naver", ("head.weight", (5, 99))),
    ],
)
def test_a_head_that_a_converter_places_is_dropped_for_features(
    name: str, odd: tuple[str, tuple[int, int]], tmp_path: Path
) -> None:
    case = CASES[name]
    source = case.source()
    key, shape = odd
    changed = {**source.state, key: torch.ones(shape)}
    path = case.write(replace(source, state=changed), tmp_path / "model")
    with pytest.raises(WeightsMismatch, match="head"):
        load_reference(read(path, overrides=dict(case.given)))
    found = read(path, features=True, overrides=dict(case.given))
    assert found.spec.classes == 0
    assert [dropped for dropped in found.dropped if dropped.startswith("head")]
    tokens, _ = load_reference(found).deployed(uint8=False, features=True)(torch.randn(1, 3, *found.spec.image_size))
    assert torch.isfinite(tokens).all()
