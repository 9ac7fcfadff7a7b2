# SPDX-License-Identifier: Apache-2.0
"""Tests of `open_clip`: each key of ``open_clip_config.json`` in turn, by a tower built of PyTorch's own layers."""

from __future__ import annotations

import copy
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import vitedge
from tests.family_files import copied
from tests.seeding import seeded
from vitedge.errors import UserError
from vitedge.records import Origin

TOWER = {"layers": 2, "width": 64, "head_width": 32, "patch_size": 8, "image_size": 32, "mlp_ratio": 1.5}
CONFIG: dict[str, Any] = {
    "model_cfg": {"embed_dim": 24, "vision_cfg": TOWER, "text_cfg": {"width": 8}, "quick_gelu": False},
    "preprocess_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "interpolation": "bilinear"},
}


class Block(nn.Module):
    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__()
        width, eps = settings["width"], settings.get("norm_kwargs", {}).get("eps", 1e-5)
        self.attn = nn.MultiheadAttention(width, width // settings.get("head_width", 64), batch_first=True)
        self.ln_1, self.ln_2 = nn.LayerNorm(width, eps), nn.LayerNorm(width, eps)
        hidden = int(width * settings["mlp_ratio"])
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, hidden), "c_proj": nn.Linear(hidden, width)})
        self.is_scaled = settings.get("ls_init_value") is not None
        if self.is_scaled:
            self.ls_1, self.ls_2 = (nn.ParameterDict({"gamma": nn.Parameter(torch.ones(width))}) for _ in range(2))

    def forward(self, x: Tensor, act: Any) -> Tensor:
        normed = self.ln_1(x)
        attended = self.attn(normed, normed, normed, need_weights=False)[0]
        x = x + (attended * self.ls_1["gamma"] if self.is_scaled else attended)
        hidden: Tensor = self.mlp["c_proj"](act(self.mlp["c_fc"](self.ln_2(x))))
        return x + (hidden * self.ls_2["gamma"] if self.is_scaled else hidden)


class Tower(nn.Module):
    """open_clip's VisionTransformer, from its published description, for one ``model_cfg``."""

    def __init__(self, model: dict[str, Any]) -> None:
        super().__init__()
        self.model, self.settings = model, model["vision_cfg"]
        width, patch, edge = (self.settings[key] for key in ("width", "patch_size", "image_size"))
        norm = partial(nn.LayerNorm, width, self.settings.get("norm_kwargs", {}).get("eps", 1e-5))
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.positional_embedding = nn.Parameter(torch.zeros((edge // patch) ** 2 + 1, width))
        self.ln_pre = nn.Identity() if self.settings.get("no_ln_pre") else norm()
        blocks = nn.ModuleList([Block(self.settings) for _ in range(self.settings["layers"])])
        self.transformer, self.ln_post = nn.ModuleDict({"resblocks": blocks}), norm()
        self.proj = nn.Parameter(torch.zeros(width, model["embed_dim"]))

    def forward(self, image: Tensor) -> Tensor:
        patches = self.conv1(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(image), 1, -1), patches], 1) + self.positional_embedding
        x = self.ln_pre(x)
        act = partial(nn.functional.gelu, **self.settings.get("act_kwargs", {}))
        for block in self.transformer["resblocks"]:  # type: ignore[union-attr]
            x = block(x, (lambda h: h * torch.sigmoid(1.702 * h)) if self.model.get("quick_gelu") else act)
        normed = x if self.settings.get("final_ln_after_pool") else self.ln_post(x)
        pooled = normed[:, 1:].mean(1) if self.settings.get("pool_type") == "avg" else normed[:, 0]
        embedding: Tensor = (self.ln_post(pooled) if self.settings.get("final_ln_after_pool") else pooled) @ self.proj
        return embedding


def changed(section: str, changes: dict[str, Any]) -> dict[str, Any]:
    config = copy.deepcopy(CONFIG)
    target = config["model_cfg"]["vision_cfg"] if section == "vision_cfg" else config[section]
    target.update(changes)
    return config


def written(folder: Path, state: dict[str, Tensor], config: dict[str, Any]) -> str:
    save_file(
        copied({f"visual.{name}": tensor for name, tensor in state.items()}), folder / "open_clip_model.safetensors"
    )
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return str(folder)


@pytest.mark.parametrize("is_file", [True, False])
@pytest.mark.parametrize(
    ("section", "changes"),
    [
        ("vision_cfg", {}),
        *(("vision_cfg", {"head_width": width}) for width in (16, 64)),
        ("vision_cfg", {"pool_type": "avg"}),
        ("vision_cfg", {"pool_type": "avg", "final_ln_after_pool": True}),
        ("vision_cfg", {"no_ln_pre": True}),
        ("vision_cfg", {"no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True}),
        ("vision_cfg", {"ls_init_value": 0.1}),
        ("vision_cfg", {"norm_kwargs": {"eps": 1e-2}}),
        ("vision_cfg", {"act_kwargs": {"approximate": "tanh"}}),
        ("vision_cfg", {"patch_dropout": 0.5, "output_tokens": False, "attn_pooler_heads": 4}),
        ("model_cfg", {"quick_gelu": True}),
        ("model_cfg", {"init_logit_bias": -10, "custom_text": True}),
    ],
)
@torch.no_grad()
def test_each_key_of_a_tower_is_followed(section: str, changes: dict[str, Any], is_file: bool, tmp_path: Path) -> None:
    config = changed(section, changes)
    model = seeded(Tower(config["model_cfg"]))
    path = written(tmp_path, model.state_dict(), config)
    reference = vitedge.load(f"{path}/open_clip_model.safetensors" if is_file else path)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    expected, found = model(images), reference.module(images)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    spec = reference.spec
    assert (spec.preprocessing.mean, spec.preprocessing.interpolation) == ((0.1, 0.2, 0.3), "bilinear")
    assert Origin.ASSUMED not in spec.origins.values()
    assert not [note for note in spec.notes if "assumed" in note]


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        *(("vision_cfg", key, 3) for key in ("layers", "width", "patch_size", "image_size", "mlp_ratio", "head_width")),
        *(("vision_cfg", key, True) for key in ("attentional_pool", "no_ln_pre", "qk_norm", "scale_fc")),
        *(("vision_cfg", key, "big") for key in ("layers", "head_width", "pool_type", "norm_kwargs", "act_kwargs")),
        *(("vision_cfg", key, 10**12) for key in ("layers", "head_width", "ls_init_value", "surprise")),
        *(("model_cfg", key, "big") for key in ("quick_gelu", "embed_dim", "surprise")),
        *(("preprocess_cfg", key, "big") for key in ("size", "mean", "std", "mode", "interpolation", "resize_mode")),
        ("preprocess_cfg", "resize_mode", "longest"),
        ("preprocess_cfg", "mean", [0.5, 0.5]),
        ("preprocess_cfg", "std", [0.5, 0.0, 0.5]),
    ],
)
def test_what_cannot_be_followed_is_refused_by_name(section: str, key: str, value: Any, tmp_path: Path) -> None:
    path = written(tmp_path, seeded(Tower(CONFIG["model_cfg"])).state_dict(), changed(section, {key: value}))
    with pytest.raises(UserError, match=rf"{key} ?=|the key \S*{key}"):
        vitedge.load(path)


@torch.no_grad()
def test_a_tower_that_timm_builds_is_read_as_timms(tmp_path: Path) -> None:
    name = "vit_tiny_patch16_224"
    with torch.device("meta"):
        shapes = timm.create_model(name, num_classes=0).state_dict()
    tower = {"timm_model_name": name, "timm_pool": "token", "timm_proj": "none", "image_size": 224}
    config = {
        "model_cfg": {"embed_dim": 192, "vision_cfg": tower, "text_cfg": {}},
        "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash"},
    }
    state = {f"trunk.{key}": torch.zeros(tensor.shape) for key, tensor in shapes.items()}
    spec = vitedge.load(written(tmp_path, state, config)).spec
    assert (spec.heads, spec.preprocessing.crop_mode, spec.preprocessing.mean) == ((3,), "squash", (0.5,) * 3)
    assert spec.origins["heads"] is Origin.CONFIG
    tower["timm_proj"] = "mlp"
    with pytest.raises(UserError, match="timm_proj"):
        vitedge.load(written(tmp_path, {}, config))
