# SPDX-License-Identifier: Apache-2.0
"""Tests of `encoder`: ViTs that people build around PyTorch's nn.TransformerEncoder, by their own forward."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vitedge
from tests.seeding import seeded
from vitedge.checkpoints.assumptions import assumed
from vitedge.checkpoints.read import read
from vitedge.errors import BadRecipe, UnknownArchitecture
from vitedge.records import Origin

WIDTH = 64


class PlainViT(nn.Module):
    """As tutorials write it: patches by a convolution, a class token or none, and a head of one layer."""

    def __init__(
        self, norm_first: bool, activation: str, pool: str = "class", norm: str = "encoder", table: bool = False
    ) -> None:
        super().__init__()
        self.pool, self.norm = pool, norm
        self.to_patches = nn.Conv2d(3, WIDTH, 8, 8, bias=not table)
        if pool == "class":
            self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        positions = 16 + (pool == "class")
        self.pos = nn.Embedding(positions, WIDTH) if table else nn.Parameter(torch.zeros(1, positions, WIDTH))  # type: ignore[assignment]
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 96, activation=activation, batch_first=True, norm_first=norm_first)
        last = nn.LayerNorm(WIDTH) if norm == "encoder" else None
        self.transformer = nn.TransformerEncoder(layer, 2, norm=last, enable_nested_tensor=False)
        head = nn.Linear(WIDTH, 5)
        self.mlp_head = nn.Sequential(nn.LayerNorm(WIDTH), head) if norm == "head" else head

    def forward(self, image: Tensor) -> Tensor:
        x = self.to_patches(image).flatten(2).transpose(1, 2)
        if self.pool == "class":
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
        x = self.transformer(x + (self.pos.weight if isinstance(self.pos, nn.Embedding) else self.pos))
        logits: Tensor = self.mlp_head(x[:, 0] if self.pool == "class" else x.mean(1))
        return logits


def saved(model: nn.Module, folder: Path, **extra: Any) -> str:
    torch.save(
        {"model": {f"module.{name}": tensor for name, tensor in model.state_dict().items()}, **extra}, folder / "a.pth"
    )
    return str(folder / "a.pth")


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("activation", ["gelu", "relu"])
@pytest.mark.parametrize(
    ("pool", "norm", "table"),
    [
        *(("class", norm, table) for norm, table in (("encoder", False), ("head", True), ("none", False))),
        *(("mean", norm, table) for norm, table in (("encoder", True), ("head", False))),
    ],
)
@torch.no_grad()
def test_it_computes_the_same(
    norm_first: bool, activation: str, pool: str, norm: str, table: bool, tmp_path: Path
) -> None:
    model = seeded(PlainViT(norm_first, activation, pool, norm, table))
    path = saved(model, tmp_path)
    given = {"heads": 4, "norm_first": norm_first, "activation": activation, "pool": pool}
    reference = vitedge.load(path, overrides=given)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    expected = model(images)
    assert (reference.module(images) - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert not assumed(reference.spec)
    assert not [note for note in reference.spec.notes if "TransformerEncoder" in note]
    assert set(assumed(read(path).spec)) == {"heads", "activation", "options.norm_first", "options.pool"}


def test_what_the_file_says_is_no_guess(tmp_path: Path) -> None:
    path = saved(PlainViT(True, "relu"), tmp_path, args={"num_heads": 4, "norm_first": False, "hidden_act": "relu"})
    spec = read(path).spec
    assert (spec.options["norm_first"], spec.origins["options.norm_first"]) == (False, Origin.CONFIG)
    assert assumed(spec) == ("options.pool",)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda model: setattr(model, "decoder", nn.Linear(WIDTH, 7)), "the linear layers mlp_head, decoder"),
        (lambda model: setattr(model, "pre_norm", nn.LayerNorm(WIDTH)), "pre_norm"),
        (lambda model: setattr(model, "to_patches", nn.Linear(192, WIDTH)), "no convolution"),
        (lambda model: setattr(model, "mask_token", nn.Parameter(torch.zeros(WIDTH))), "tokens cls_token, mask_token"),
        (lambda model: setattr(model, "pos", nn.Parameter(torch.zeros(1, 1))), "no position embedding"),
        (lambda model: setattr(model, "extra", model.transformer), "2 of them"),
    ],
)
def test_what_is_not_known_is_refused_for_what_it_is(change: Any, told: str, tmp_path: Path) -> None:
    model = PlainViT(True, "gelu", norm="none")
    change(model)
    with pytest.raises(UnknownArchitecture, match=f"around PyTorch's nn.TransformerEncoder, and .*{told}"):
        read(saved(model, tmp_path))


def test_a_decoder_is_named(tmp_path: Path) -> None:
    torch.save(nn.Transformer(WIDTH, 4, 1, 1, 96, batch_first=True).state_dict(), tmp_path / "a.pth")
    with pytest.raises(UnknownArchitecture, match=r"nn\.TransformerDecoder"):
        read(str(tmp_path / "a.pth"))


@pytest.mark.parametrize(
    ("taken", "told"), [(768, "save it with its encoder"), (1920, "last four blocks, which vitedge does not read")]
)
def test_a_linear_head_alone_is_named(taken: int, told: str, tmp_path: Path) -> None:
    torch.save(nn.Linear(taken, 10).state_dict(), tmp_path / "dinov2_vits14_linear_head.pth")
    with pytest.raises(UnknownArchitecture, match=f"linear layer alone.* of {taken}, .*{told}"):
        read(str(tmp_path / "dinov2_vits14_linear_head.pth"))


@pytest.mark.parametrize(("name", "value"), [("pool", "class"), ("pool", "sum"), ("norm_first", "maybe")])
def test_an_option_that_cannot_be_is_refused(name: str, value: str, tmp_path: Path) -> None:
    with pytest.raises(BadRecipe, match=name):
        read(saved(PlainViT(True, "gelu", "mean"), tmp_path), overrides={name: value})
