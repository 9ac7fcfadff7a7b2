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
    ("id2label", {}),
    ("id2label", {"1": "a", "2": "b", "3": "c", "4": "d", "5": "e"}),
    ("qkv_bias", 7),
    ("num_attention_heads", 7),
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
    ("mean", [0.5, 0.5]),
    ("std", [[1]]),
    ("label_names", [1, 2, 3, 4, 5]),
    ("label_names", {"7": "a"}),
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


@pytest.fixture(scope="module")
def named_model() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A model that timm builds by its name."""
    name = "xcit_nano_12_p16_224"
    return copied(timm.create_model(name, num_classes=5).state_dict()), {"architecture": name, "num_classes": 5}


def refusal(folder: Path, state: dict[str, Tensor], config: dict[str, Any]) -> str:
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config, default=str))
    with pytest.raises(UserError) as caught:
        vitedge.load(folder)
    return str(caught.value)


BY_NAME: tuple[tuple[str, Any], ...] = (
    *((key, value) for key, value in TIMM if key not in ("num_classes", "in_chans")),
    ("input_size", "big"),
    ("label_names", 7),
    ("crop_pct", float("nan")),
)


@pytest.mark.parametrize(("key", "value"), TRANSFORMERS)
def test_a_configuration_of_transformers_that_lies_is_refused(
    key: str, value: Any, transformers_model: tuple[dict[str, Tensor], dict[str, Any]], tmp_path: Path
) -> None:
    state, config = transformers_model
    told = refusal(tmp_path, state, {**config, key: value})
    assert key in told
    assert "config.json" in told or key == "num_attention_heads"


@pytest.mark.parametrize(("key", "value"), TIMM)
def test_a_pretrained_cfg_that_lies_is_refused(
    key: str, value: Any, timm_model: tuple[dict[str, Tensor], dict[str, Any]], tmp_path: Path
) -> None:
    state, config = timm_model
    told = refusal(tmp_path, state, {**config, "pretrained_cfg": {"input_size": [3, 32, 32], key: value}})
    assert key in told
    assert "config.json" in told or value == [0.5, 0.5]


@pytest.mark.parametrize(("key", "value"), BY_NAME)
def test_a_lie_of_a_model_that_is_built_by_its_name_is_refused(
    key: str, value: Any, named_model: tuple[dict[str, Tensor], dict[str, Any]], tmp_path: Path
) -> None:
    state, config = named_model
    told = refusal(tmp_path, state, {**config, "pretrained_cfg": {key: value}})
    assert key in told
    assert "config.json" in told or key in ("interpolation", "crop_mode", "mean")


@pytest.mark.parametrize(
    ("key", "value"),
    [("depth", 10**9), ("embed_dim", -3), ("embed_dim", 10**12), ("img_size", "big")],
)
def test_an_argument_that_timm_cannot_build_with_is_refused(
    key: str, value: Any, named_model: tuple[dict[str, Tensor], dict[str, Any]], tmp_path: Path
) -> None:
    state, config = named_model
    assert key in refusal(tmp_path, state, {**config, "model_args": {key: value}})
