# SPDX-License-Identifier: Apache-2.0
"""The table of published bodies, held to what timm itself builds, and `vitedge.checkpoints.families.heads`."""

from __future__ import annotations

from typing import Any

import pytest
import timm
from timm.models import deit, model_entrypoint, vision_transformer

from vitedge.checkpoints.families.family import Hints
from vitedge.checkpoints.families.heads import told_heads
from vitedge.checkpoints.families.vit.bodies import BODIES, DINO, MOCO, Shape, published_heads
from vitedge.errors import BadRecipe, UnknownArchitecture
from vitedge.records import Origin


class _Captured(Exception):  # noqa: N818 - no error: it carries settings out of timm's constructor
    pass


def _capture(*_: object, **settings: Any) -> None:
    raise _Captured(settings)


def published(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """Name of each plain ViT and DeiT of timm to the settings that timm builds it with."""
    monkeypatch.setattr(vision_transformer, "_create_vision_transformer", _capture)
    monkeypatch.setattr(deit, "_create_deit", _capture)
    found = {}
    for name in timm.list_models():
        entry = model_entrypoint(name)
        if entry.__module__ in (vision_transformer.__name__, deit.__name__):
            with pytest.raises(_Captured) as caught:
                entry()
            found[name] = caught.value.args[0]
    return found


def shape_from(settings: dict[str, Any]) -> Shape:
    width = settings.get("embed_dim", 768)
    hidden = int(width * settings.get("mlp_ratio", 4))
    tokens = ("class",) if settings.get("class_token", True) else ()
    patch = settings.get("patch_size", 16)
    return Shape(width, settings.get("depth", 12), hidden, 1000, 3, patch, tokens, 0, None, 1)


def test_every_published_body(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {name: each for name, each in published(monkeypatch).items() if "resnet" not in name}
    assert len(settings) > 100
    for name, each in settings.items():
        heads, origin, note = published_heads(shape_from(each), "")
        right = each.get("num_heads", 12)
        assert origin is Origin.TABLE, name
        assert heads == right or f"--set heads={right}" in note, name
        assert published_heads(shape_from(each), name)[0] == right, name
    bodies = {(shape.width, shape.depth, shape.hidden) for shape in map(shape_from, settings.values())}
    assert set(BODIES) == bodies


@pytest.mark.parametrize(("patch", "depth", "hidden"), [(4, 12, 1536), (16, 11, 1536), (16, 12, 768)])
def test_other_bodies_are_not_taken_for_published(patch: int, depth: int, hidden: int) -> None:
    shape = Shape(384, depth, hidden, 10, 3, patch, ("class",), 0, None, 1)
    assert published_heads(shape, "") == (0, Origin.ASSUMED, "")


def test_moco_v3_has_the_shapes_of_vit_s() -> None:
    shape = Shape(384, 12, 1536, 0, 3, 16, ("class",), 0, None, 1)
    heads, origin, note = published_heads(shape, "vit_small")
    assert (heads, origin) == (6, Origin.TABLE)
    assert "--set heads=12" in note
    assert published_heads(shape, "deit_small_patch16_224") == (6, Origin.CONFIG, "")


def test_told_heads() -> None:
    assert told_heads(Hints(), (32,)) is None
    assert told_heads(Hints(config={"num_heads": 4}), (32, 64)) == ((4, 4), Origin.CONFIG)
    assert told_heads(Hints(config={"num_heads": 4}, overrides={"heads": (2,)}), (32,)) == ((2,), Origin.GIVEN)
    with pytest.raises(UnknownArchitecture, match="give one divisor of each width with --set heads="):
        told_heads(Hints(config={"num_heads": (2, 4)}), (32,))
    with pytest.raises(BadRecipe, match="5 do not fit the widths 32"):
        told_heads(Hints(overrides={"heads": (5,)}), (32,))


def test_pretraining_tells_the_heads_of_vit_s() -> None:
    shape = Shape(384, 12, 1536, 0, 3, 16, ("class",), 0, None, 1)
    assert published_heads(shape, "vit_small", MOCO) == (12, Origin.CONFIG, "")
    heads, origin, note = published_heads(shape, "", MOCO)
    assert (heads, origin) == (12, Origin.ASSUMED)
    assert "--set heads=" in note
    assert published_heads(shape, "vit_small_patch16_224", MOCO) == (6, Origin.CONFIG, "")
    assert published_heads(shape, "vit_small", DINO) == (6, Origin.CONFIG, "")
