# SPDX-License-Identifier: Apache-2.0
"""Models of one or two layers, each with one thing that quantization has to see; captured in a fraction of a second."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.export import tiny
from tests.seeding import seeded
from vitedge.program.capture import capture
from vitedge.program.execution import Execution
from vitedge.program.program import Program


class Folded(nn.Module):
    """A convolution and its batch normalization, one that no convolution precedes, and what computes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 4, 4, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.norm2 = nn.BatchNorm2d(8)
        self.alone = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8, 5, bias=False)

    def forward(self, image: Tensor) -> Tensor:
        x = functional.silu(self.norm(self.conv(image)), inplace=True)
        x = self.alone(functional.relu_(self.norm2(self.conv2(x))))
        x = functional.pad(x, (0, 0, 0, 0))[:, :, 0:]
        return self.head(self.drop(x.mean((2, 3)).contiguous()))  # type: ignore[no-any-return]


class ReadTwice(nn.Module):
    """A convolution whose output is normalized and read beside: its batch normalization has to stay."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 8, 8)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, image: Tensor) -> Tensor:
        x = self.conv(image)
        return self.head((self.norm(x) + x).mean((2, 3)))  # type: ignore[no-any-return]


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(32, 32)
        self.second = nn.Linear(32, 32)
        self.second.weight = self.first.weight

    def forward(self, image: Tensor) -> Tensor:
        return self.second(functional.gelu(self.first(image.mean((1, 2)))))  # type: ignore[no-any-return]


class Normed(nn.Module):
    """Three normalizations: one that two layers read, one whose output is also added, one that is an output."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.added, self.last = nn.LayerNorm(32), nn.LayerNorm(32), nn.LayerNorm(32)
        self.left, self.right, self.third = nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 32)

    def forward(self, image: Tensor) -> Tensor:
        x = image.mean(1)
        normed = self.norm(x)
        x = self.left(normed) * self.right(normed)
        added = self.added(x)
        return self.last(added + self.third(added))  # type: ignore[no-any-return]


class Heads(nn.Module):
    """An attention, written out or as one operator, with a mask or without."""

    def __init__(self, *, fused: bool, masked: bool = False) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(32, 96), nn.Linear(32, 32)
        self.fused = fused
        self.mask: Any
        self.register_buffer("mask", torch.linspace(-1, 1, 32 * 32).reshape(1, 1, 32, 32) if masked else None)

    def forward(self, image: Tensor) -> Tensor:
        batch = image.shape[0]
        query, key, value = self.qkv(image.mean(1)).reshape(batch, 32, 3, 2, 16).permute(2, 0, 3, 1, 4).unbind(0)
        if self.fused:
            x = functional.scaled_dot_product_attention(query, key, value, attn_mask=self.mask)
        else:
            scores = query * 0.25 @ key.transpose(-2, -1)
            x = (scores if self.mask is None else scores + self.mask).softmax(-1) @ value
        return self.proj(x.transpose(1, 2).reshape(batch, 32, 32))  # type: ignore[no-any-return]


class Separate(nn.Module):
    """An attention whose queries, keys and values come from layers of their own, the queries normalized if wanted."""

    def __init__(self, *, normalized: bool = False) -> None:
        super().__init__()
        self.q, self.k, self.v, self.proj = (nn.Linear(32, 32) for _ in range(4))
        self.norm = nn.LayerNorm(16) if normalized else nn.Identity()

    def forward(self, image: Tensor) -> Tensor:
        x = image.mean(1)
        query, key, value = (
            layer(x).reshape(x.shape[0], 32, 2, 16).transpose(1, 2) for layer in (self.q, self.k, self.v)
        )
        x = (self.norm(query) @ key.transpose(-2, -1) / 4).softmax(-1) @ value
        return self.proj(x.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Mixture(nn.Module):
    """A convolution, two layers that read one value, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 32, 8, 8)
        self.left, self.right = nn.Linear(32, 48), nn.Linear(32, 48)
        self.head = nn.Linear(48, 5)

    def forward(self, image: Tensor) -> Tensor:
        x = functional.gelu(self.conv(image)).flatten(2).transpose(1, 2)
        return self.head((functional.gelu(self.left(x)) + self.right(x)).mean(1))  # type: ignore[no-any-return]


PARTS = {Folded: "conv", ReadTwice: "conv", Tied: "first", Normed: "norm", Heads: "qkv", Separate: "q", Mixture: "conv"}


@cache
def _built(kind: type[nn.Module], options: tuple[tuple[str, bool], ...]) -> nn.Module:
    return seeded(kind(**dict(options)))


def built(kind: type[nn.Module], **options: bool) -> nn.Module:
    """The seeded module, always the same."""
    return _built(kind, tuple(options.items()))


@cache
def _captured(kind: type[nn.Module], batch: int | str, options: tuple[tuple[str, bool], ...]) -> Program:
    return capture(_built(kind, options), tiny.spec("vit"), (PARTS[kind],), batch=batch)


def captured(kind: type[nn.Module], batch: int | str = "dynamic", **options: bool) -> Program:
    """Its program; a copy."""
    return copy.deepcopy(_captured(kind, batch, tuple(options.items())))


def run(program: Program, images: Tensor) -> Tensor:
    """The first output."""
    return Execution(program.exported)(images)[0]
