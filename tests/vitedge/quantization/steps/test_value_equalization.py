# SPDX-License-Identifier: Apache-2.0
"""Tests of `value_equalization` and of the `operands` that it may change."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.export import tiny
from tests.seeding import seeded
from tests.vitedge.quantization.steps.programs import (
    computed,
    doubled,
    observed,
    quantized_sqnr,
    structure_of,
    structure_of_module,
)
from vitedge.program.structure import Structure
from vitedge.program.tracing import Tracer
from vitedge.quantization.steps import value_equalization
from vitedge.quantization.steps.operands import attention_values, linear_values
from vitedge.quantization.steps.rounding_error import Precision

IMAGES = tiny.images(24)


def with_outlier_values(structure: Structure) -> Structure:
    """Scales two channels of every value by 32, and the weights that read them by 1/32."""
    editor, tracer = structure.editor, Tracer(structure.editor)
    softmax = [attention_values(tracer, attention) for attention in structure.attentions]
    for values in [*softmax, *linear_values(structure, tracer)]:
        assert values is not None
        for name in (values.layer.weight, values.layer.bias):
            tensor = editor.value(name).clone()
            tensor[values.rows[:2]] *= 32
            editor.set(name, tensor)
        weight = editor.value(values.output.weight).clone()
        weight[:, values.columns < 2] /= 32
        editor.set(values.output.weight, weight)
    return structure


@pytest.mark.parametrize(
    ("name", "kind"), [("vit", "uint8"), ("vit", "int8"), ("swin", "uint8"), ("mobilevitv2", "int8")]
)
def test_outlier_values_cost_nothing_any_more(name: str, kind: Any) -> None:
    plain = quantized_sqnr(structure_of(name), IMAGES, Precision(kind))
    structure = with_outlier_values(structure_of(name))
    spoilt = quantized_sqnr(structure, IMAGES, Precision(kind))
    records = value_equalization.apply(structure, observed(structure, IMAGES), Precision(kind))
    mended = quantized_sqnr(structure, IMAGES, Precision(kind))
    assert mended > plain - 1
    assert spoilt < mended - 1
    assert all(record.after_db > record.before_db + 6 for record in records)


class Block(nn.Module):
    """An attention whose values, or whose queries, are read in other ways, too."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 8, 8)
        self.norm = nn.LayerNorm(16)
        self.qkv = nn.Linear(16, 48)
        self.query_norm = nn.LayerNorm(8)
        self.proj = nn.Linear(16, 16)
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x).flatten(2).transpose(1, 2))
        q, k, v = self.qkv(x).reshape(-1, 16, 3, 2, 8).permute(2, 0, 3, 1, 4).unbind(0)
        if self.kind == "normalized":
            q = self.query_norm(q)
        if self.kind == "across channels":
            q, k, v = (part.transpose(-2, -1) for part in (q, k, v))
        if self.kind == "scaled":
            v = v * 0.5
        mixed = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        if self.kind == "across channels":
            mixed = mixed.transpose(-2, -1)
        y: Tensor = self.proj(mixed.transpose(1, 2).reshape(-1, 16, 16))
        if self.kind == "values":
            y = y + v.transpose(1, 2).reshape(-1, 16, 16)
        if self.kind == "keys":
            y = y + k.transpose(1, 2).reshape(-1, 16, 16)
        return y.mean(1)


def block(kind: str) -> Structure:
    return doubled(structure_of_module(seeded(Block(kind)), "norm"))


@pytest.mark.parametrize("kind", ["plain", "scaled", "normalized", "values", "across channels"])
def test_only_values_that_nothing_else_reads_are_scaled(kind: str) -> None:
    structure = block(kind)
    before = computed(structure.program, IMAGES.double())
    inputs = observed(structure, IMAGES.double())
    records = value_equalization.apply(structure, inputs, Precision("int8"))
    # Behind a factor, the shift of the values is not that of the result.
    centred = [record.choice.startswith("centred") for record in records]
    assert centred == {"plain": [True], "normalized": [True], "scaled": [False]}.get(kind, [])
    after = computed(structure.program, IMAGES.double())
    assert tiny.relative_error(after.numpy(), before.numpy()) < 1e-12
    assert torch.equal(after, before) == (not records)
