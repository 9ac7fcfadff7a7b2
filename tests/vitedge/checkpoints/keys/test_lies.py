# SPDX-License-Identifier: Apache-2.0
"""Tests of `check` and `meaning`: a damaged or absurd configuration ends in a sentence with its key and its file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor

import vitedge
from tests.family_files import copied
from tests.vitedge.checkpoints.keys import models
from vitedge.errors import UserError

HUGE = 10**12
TRANSFORMERS: tuple[tuple[str, Any], ...] = (
    ("image_size", "big"),
    ("layer_norm_eps", "avg"),
    ("layer_norm_eps", 12),
    ("num_hidden_layers", 7),
    ("id2label", {"surprise": "a"}),
    ("id2label", ["a"]),
    ("id2label", {"0": 7}),
    *((key, HUGE) for key in ("hidden_size", "num_hidden_layers", "num_labels", "patch_size", "image_size")),
    *((key, [1, 2]) for key in ("hidden_size", "num_labels", "patch_size", "layer_norm_eps", "intermediate_size")),
)
TIMM: tuple[tuple[str, Any], ...] = (
    ("in_chans", [1, 2]),
    ("interpolation", 7),
    ("crop_pct", "big"),
    ("crop_pct", [1, 2]),
    ("crop_pct", HUGE),
    ("crop_mode", [1]),
    ("mean", "big"),
    ("mean", 7),
    ("std", [[1]]),
    ("std", [0.5, 0.0, 0.5]),
    ("input_size", 7),
    ("num_classes", HUGE),
)


@pytest.fixture(scope="module")
def transformers_model() -> tuple[dict[str, Tensor], dict[str, Any]]:
    torch.manual_seed(0)
    model = transformers.ViTForImageClassification(transformers.ViTConfig(**models.CLASSES["vit"][2]))
    return copied(model.state_dict()), {**model.config.to_dict(), "model_type": "vit"}


@pytest.fixture(scope="module")
def timm_model() -> tuple[dict[str, Tensor], dict[str, Any]]:
    torch.manual_seed(0)
    name, _, tiny = models.ARCHITECTURES["vit"]
    return copied(timm.create_model(name, **tiny).state_dict()), {"architecture": name, "model_args": tiny}


def refusal(folder: Path, state: dict[str, Tensor], config: dict[str, Any]) -> str:
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config, default=str))
    with pytest.raises(UserError) as caught:
        vitedge.load(folder)
    return str(caught.value)


@pytest.mark.parametrize(("key", "value"), TRANSFORMERS)
def test_a_configuration_of_transformers_that_lies_is_refused(
    key: str, value: Any, transformers_model: tuple[dict[str, Tensor], dict[str, Any]], tmp_path: Path
) -> None:
    state, config = transformers_model
    told = refusal(tmp_path, state, {**config, key: value})
    assert key in told
    assert "config.json" in told


@pytest.mark.parametrize(("key", "value"), TIMM)
def test_a_pretrained_cfg_that_lies_is_refused(
    key: str, value: Any, timm_model: tuple[dict[str, Tensor], dict[str, Any]], tmp_path: Path
) -> None:
    state, config = timm_model
    told = refusal(tmp_path, state, {**config, "pretrained_cfg": {"input_size": [3, 32, 32], key: value}})
    assert key in told
    assert "config.json" in told
