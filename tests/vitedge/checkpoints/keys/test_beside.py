# SPDX-License-Identifier: Apache-2.0
"""Configurations of transformers and timm beside files in other namings: each key is honoured or refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.family_files import quiet
from tests.family_matrix import CASES
from tests.seeding import seeded
from tests.vitedge.checkpoints.families.vit.test_libraries import ClipTower, MmViT
from vitedge.checkpoints.read import read
from vitedge.errors import UserError
from vitedge.records import ModelSpec

NAMINGS = {
    "vit google": "vit",
    "deit-iii facebook": "vit",
    "mae": "vit_mae",
    "dino": "vit",
    "dinov2 facebook": "dinov2",
    "simmim vit": "beit",
    "swin timm 0.8": "swin",
    "swin simmim": "swin",
    "pit naver": "",
    "mobilevit cvnets": "mobilevit",
    "mobilevitv2 cvnets": "mobilevitv2",
}
"""Names of the matrix, one for each naming that is no configuration's own, to the ``model_type``; empty if none."""
ARCHITECTURES = {
    "vit": "vit_tiny_patch16_224",
    "beit": "beit_base_patch16_224",
    "swin": "swin_tiny_patch4_window7_224",
    "pit": "pit_ti_224",
    "mobilevit": "mobilevit_xxs",
    "mobilevitv2": "mobilevitv2_050",
}
LIBRARIES: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "torchvision": ("vit", lambda: torchvision().VisionTransformer(32, 8, 2, 4, 48, 96, num_classes=5)),
    "torchvision swin": (
        "swin",
        lambda: torchvision().SwinTransformer([2, 2], 24, [2, 2], [2, 4], [4, 4], num_classes=5),
    ),
    "mmpretrain": ("vit", lambda: MmViT("class")),
    "mmpretrain mean": ("vit", lambda: MmViT("mean")),
    "mmpretrain deit": ("deit", lambda: MmViT("distilled")),
    "open_clip": ("", ClipTower),
}
"""Models of libraries whose files have no configuration of their own, or of another name, as `NAMINGS`."""
MEAN = (0.1, 0.2, 0.3)


def torchvision() -> Any:
    return pytest.importorskip("torchvision", reason="pip install torchvision").models


def facts(spec: ModelSpec) -> dict[str, tuple[dict[str, Any], dict[str, Any], Any]]:
    """Field of a spec to the keys of transformers and of timm that change it, and to its value then."""
    one = spec.family in ("vit", "beit", "mobilevit")
    heads: Any = next(count for count in (1, 2, 4) if count != spec.heads[0]) if one else [1] * len(spec.heads)
    key = "num_heads" if spec.family == "swin" else "num_attention_heads"
    found: dict[str, tuple[dict[str, Any], dict[str, Any], Any]] = {
        "heads": ({key: heads}, {"num_heads": heads}, tuple([heads] * len(spec.heads) if one else heads)),
        "activation": ({"hidden_act": "relu"}, {"act_layer": "relu"}, "relu"),
        "norm_eps": ({"layer_norm_eps": 1e-3}, {"norm_layer": "layernorm2d"}, 1e-3),
        "image_size": ({"image_size": 96}, {"img_size": 96}, (96, 96)),
        "classes": ({"num_labels": 17}, {"num_classes": 17}, 17),
        "labels": ({"id2label": {str(n): f"c{n}" for n in range(spec.classes)}}, {}, ("c0", "c1", "c2", "c3", "c4")),
    }
    if spec.family == "mobilevitv2":  # its attention has one score a token, and no heads
        del found["heads"]
    return found if spec.classes else {field: found[field] for field in found if field not in ("classes", "labels")}


def configurations(model_type: str, spec: ModelSpec) -> list[tuple[dict[str, Any], str]]:
    """The configuration of either library that belongs to a spec, and the section of its arguments."""
    column = spec.family in ("vit", "beit")
    heads: Any = spec.heads[0] if column or spec.family == "mobilevit" else list(spec.heads)
    arguments = {"num_heads": heads, "img_size": spec.image_size[0]} if column else {}
    pretrained = {"mean": MEAN, "std": MEAN}
    timm = {"architecture": ARCHITECTURES[spec.family], "model_args": arguments, "pretrained_cfg": pretrained}
    stated = {"num_heads" if spec.family == "swin" else "num_attention_heads": heads, "hidden_act": spec.activation}
    base = {"model_type": model_type, **stated, "layer_norm_eps": spec.norm_eps, "image_size": spec.image_size[0]}
    if spec.family == "swin":
        base["window_size"] = spec.options.get("window", 4)
    return [(timm, "model_args"), *([(base, "")] if model_type else [])]


def answer(path: Path, config: dict[str, Any], given: dict[str, Any]) -> ModelSpec | str:
    (path.parent / "config.json").write_text(json.dumps(config))
    try:
        return read(str(path), overrides=given).spec
    except UserError as error:
        return str(error)


@pytest.mark.parametrize("name", NAMINGS)
def test_each_key_beside_a_file_is_honoured_or_refused(name: str, tmp_path: Path) -> None:
    quiet()
    case = CASES[name]
    path, given = Path(case.write(case.source(), tmp_path / "model")), dict(case.given)
    check_each_key(path, NAMINGS[name], given)


@pytest.mark.parametrize("name", LIBRARIES)
def test_each_key_beside_a_file_of_another_library(name: str, tmp_path: Path) -> None:
    model_type, made = LIBRARIES[name]
    torch.save(seeded(made()).state_dict(), tmp_path / "model.pth")
    check_each_key(tmp_path / "model.pth", model_type, {})


def check_each_key(path: Path, model_type: str, given: dict[str, Any]) -> None:
    spec = read(str(path), overrides=given).spec
    for base, section in configurations(model_type, spec):
        right = answer(path, base, given)
        assert isinstance(right, ModelSpec), right
        assert section == "" or right.preprocessing.mean == MEAN[: spec.in_channels]
        for field, (theirs, timms, value) in facts(spec).items():
            changed = timms if section else theirs
            if field in given or not changed or (spec.family == "mobilevitv2" and field == "norm_eps"):
                continue
            config = {**base, section: {**base[section], **changed}} if section else {**base, **changed}
            found = answer(path, config, given)
            ((key, _),) = changed.items()
            assert key in found if isinstance(found, str) else getattr(found, field) == value, (section, key, found)
