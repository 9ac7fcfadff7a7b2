# SPDX-License-Identifier: Apache-2.0
"""Tests of `smoothing`, and of `channels`, `norms` and `judging`, which it shares with other steps."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.export import tiny
from tests.seeding import seeded
from tests.vitedge.quantization.steps.programs import (
    OUTLIER,
    computed,
    doubled,
    observed,
    quantized_sqnr,
    structure_of,
    structure_of_module,
    with_outlier_channels,
)
from vitedge.program.structure import Structure, find_structure
from vitedge.quantization.records import StepRecord
from vitedge.quantization.steps import smoothing
from vitedge.quantization.steps.channels import CENTRED, OFF, SCALES, ScaleCandidate, choose
from vitedge.quantization.steps.norms import scalable_norms
from vitedge.quantization.steps.rounding_error import Consumer, Precision
from vitedge.quantization.weights.parameters import WeightSettings

IMAGES = tiny.images(24)


def smooth(structure: Structure, kind: Any = "uint8", **options: Any) -> tuple[StepRecord, ...]:
    return smoothing.apply(structure, observed(structure, IMAGES), Precision(kind), **options)


@pytest.mark.parametrize(
    ("name", "kind"), [("vit", "uint8"), ("vit", "int8"), ("pit", "int8"), ("swin", "uint8"), ("mobilevitv2", "uint8")]
)
def test_outlier_channels_cost_nothing_any_more(name: str, kind: Any) -> None:
    plain = quantized_sqnr(structure_of(name), IMAGES, Precision(kind))
    structure = with_outlier_channels(structure_of(name))
    spoilt = quantized_sqnr(structure, IMAGES, Precision(kind))
    records = smooth(structure, kind)
    mended = quantized_sqnr(structure, IMAGES, Precision(kind))
    assert spoilt < plain - 6
    assert mended > plain - 1
    assert all(record.after_db > record.before_db + 6 for record in records)


def test_without_outlier_channels_nothing_is_lost() -> None:
    structure = structure_of("vit")
    before = quantized_sqnr(structure, IMAGES, Precision("uint8"))
    smooth(structure)
    assert quantized_sqnr(structure, IMAGES, Precision("uint8")) > before


def test_the_measured_best_is_chosen_off_included() -> None:
    worse = ScaleCandidate("worse", -1, 0)  # enlarges outlier channels
    structure = structure_of("vit")
    before = computed(structure.program, IMAGES)
    records = smooth(structure, candidates=(OFF, worse))
    assert {record.choice for record in records} == {"off"}
    assert torch.equal(computed(structure.program, IMAGES), before)
    scaled = with_outlier_channels(structure_of("vit"))
    norm = scalable_norms(scaled)[0]
    consumers = [Consumer(layer, columns) for layer, columns in zip(norm.readers, norm.columns, strict=True)]
    inputs, precision = observed(scaled, IMAGES), Precision("uint8")
    alone = [choose(scaled.editor, consumers, inputs, precision, (candidate,)) for candidate in (*SCALES[1:], *CENTRED)]
    chosen = smoothing.apply(scaled, inputs, precision)[0]
    assert chosen.after_db == max(choice.after_db for choice in alone if choice is not None)


def test_weights_that_alone_are_rounded_are_smoothed_too() -> None:
    structure = with_outlier_channels(structure_of("vit"))
    coarse = Precision(None, WeightSettings("int4", search=False))
    records = smoothing.apply(structure, observed(structure, IMAGES), coarse)
    assert all(record.after_db >= record.before_db for record in records)
    assert any(record.choice != "off" for record in records)


class Padded(nn.Module):
    """A LayerNorm read by a convolution that pads with zeros."""

    def __init__(self, *, padding: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 8, 8)
        self.norm = nn.LayerNorm(16)
        self.conv = nn.Conv2d(16, 8, 3, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        y: Tensor = self.conv(x)
        return y.mean((2, 3))


@pytest.mark.parametrize("padding", [0, 1])
def test_where_zeros_are_padded_channels_are_not_centred(padding: int) -> None:
    structure = doubled(structure_of_module(seeded(Padded(padding=padding)), "norm"))
    before = computed(structure.program, IMAGES.double())
    inputs = observed(structure, IMAGES.double())
    (record,) = smoothing.apply(structure, inputs, Precision("int8"), CENTRED)
    assert record.choice.startswith("off" if padding else "centred")
    if padding:
        (record,) = smoothing.apply(structure, inputs, Precision("int8"), (ScaleCandidate("even", 1, 0),))
        assert record.choice == "even"
    after = computed(structure.program, IMAGES.double())
    assert tiny.relative_error(after.numpy(), before.numpy()) < 1e-12


class Shared(nn.Module):
    """A LayerNorm that a Linear reads and, perhaps, a residual connection."""

    def __init__(self, *, residual: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 8, 8)
        self.norm = nn.LayerNorm(16)
        self.fc = nn.Linear(16, 16)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x).flatten(2).transpose(1, 2))
        y: Tensor = self.fc(x)
        return (y + x if self.residual else y).mean(1)


def test_a_norm_that_something_else_reads_stays() -> None:
    found = [
        [norm.name for norm in scalable_norms(structure_of_module(seeded(Shared(residual=residual)), "norm"))]
        for residual in (False, True)
    ]
    assert found == [["norm"], []]


def test_norms_behind_an_average_and_of_groups_are_found() -> None:
    names = {name: [norm.name for norm in scalable_norms(structure_of(name))] for name in ("swin", "mobilevitv2")}
    assert names["swin"][-1] == "norm"
    assert [name.rsplit(".", 1)[1] for name in names["mobilevitv2"]] == ["norm1", "norm2", "norm"]


def test_outlier_channels_are_the_same_function() -> None:
    for name in ("vit", "swin", "mobilevitv2"):
        plain = structure_of(name)
        scaled = with_outlier_channels(find_structure(copy.deepcopy(plain.program)))
        results = [computed(structure.program, IMAGES) for structure in (plain, scaled)]
        assert tiny.relative_error(results[1].numpy(), results[0].numpy()) < 1e-5
        seen = [observed(structure, IMAGES) for structure in (plain, scaled)]
        reader = scalable_norms(plain)[0].readers[0].name
        assert float(seen[1][reader].maximum[0] / seen[0][reader].maximum[0]) == pytest.approx(OUTLIER)
