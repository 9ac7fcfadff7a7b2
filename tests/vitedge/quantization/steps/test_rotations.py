# SPDX-License-Identifier: Apache-2.0
"""Tests of `head_rotation`, `residual_rotation` and their `orthogonal` matrices."""

from __future__ import annotations

import math

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

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
from tests.vitedge.quantization.steps.test_value_equalization import with_outlier_values
from vitedge.program.structure import Structure
from vitedge.quantization.steps import head_rotation, residual_rotation
from vitedge.quantization.steps.orthogonal import hadamard_like, mean_preserving
from vitedge.quantization.steps.rounding_error import Precision

IMAGES = tiny.images(24)
WIDE = IMAGES.double()


@pytest.mark.parametrize("size", [6, 8, 21, 64])
def test_rotations_are_orthogonal(size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    for matrix in (hadamard_like(size, generator), mean_preserving(size, generator)):
        assert torch.allclose(matrix @ matrix.T, torch.eye(size, dtype=torch.float64), atol=1e-13)
    ones = torch.ones(size, dtype=torch.float64)
    assert torch.allclose(ones @ matrix, ones, atol=1e-13)
    assert torch.allclose(matrix @ ones, ones, atol=1e-13)


def test_of_a_power_of_two_all_entries_are_alike_large() -> None:
    matrix = hadamard_like(64, torch.Generator().manual_seed(1))
    assert torch.allclose(matrix.abs(), torch.full((64, 64), 1 / 8, dtype=torch.float64))
    assert not torch.equal(matrix, hadamard_like(64, torch.Generator().manual_seed(2)))


def test_rotated_heads_have_no_outlier_channel() -> None:
    structure = with_outlier_values(structure_of("vit"))
    before = quantized_sqnr(structure, IMAGES, Precision("uint8"))
    records = head_rotation.apply(structure, observed(structure, IMAGES), Precision("uint8"))
    values = [record for record in records if record.step == "value rotation"]
    assert {record.choice for record in values} == {"rotated"}
    assert all(record.after_db > record.before_db + 3 for record in values)
    assert quantized_sqnr(structure, IMAGES, Precision("uint8")) > before


def with_outlier_tokens(structure: Structure) -> Structure:
    """Makes another channel an outlier in every token's embedding, which no scale of a channel can undo."""
    embedding = structure.editor.value("pos_embed").clone()
    tokens = torch.arange(embedding.shape[1])
    embedding[0, tokens, (tokens * 5) % embedding.shape[2]] += 40
    structure.editor.set("pos_embed", embedding)
    return structure


def test_a_rotation_that_gains_too_little_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(residual_rotation, "MARGIN_DB", 100.0)
    structure = doubled(structure_of("vit"))
    before, inputs = computed(structure.program, WIDE), observed(structure, WIDE)
    known = dict(inputs)
    (record,) = residual_rotation.apply(structure, inputs, Precision("int8"))
    assert record.choice == "off"
    assert record.after_db == record.before_db
    assert torch.equal(computed(structure.program, WIDE), before)
    assert inputs == known


def test_outlier_tokens_are_rotated() -> None:
    structure = with_outlier_tokens(structure_of("vit"))
    (record,) = residual_rotation.apply(structure, observed(structure, IMAGES), Precision("uint8"))
    assert record.choice == "rotated"
    assert record.after_db > record.before_db + 0.5


REASONS = {
    "pit": "the stream changes its width",
    "swin": "a normalization has other readers than layers",
    "beit": "mul_1 lies in the stream",
    "mobilevit": "stages.1.1.norm is not read channel by channel by Linear layers",
    "mobilevitv2": "a normalization has other readers than layers",
}


@pytest.mark.parametrize("name", REASONS)
def test_where_there_is_no_stream_the_reason_is_told(name: str) -> None:
    structure = structure_of(name)
    before = computed(structure.program, IMAGES)
    (record,) = residual_rotation.apply(structure, observed(structure, IMAGES), Precision("uint8"))
    assert record.choice.startswith("not applicable: ")
    assert math.isnan(record.before_db)
    assert torch.equal(computed(structure.program, IMAGES), before)


def test_gains_that_the_canonical_form_folds_do_not_lie_in_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(residual_rotation, "MARGIN_DB", -100.0)
    vit = VisionTransformer(
        img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=3, num_classes=7, init_values=0.1
    )
    structure = doubled(structure_of_module(seeded(vit), "blocks.0"))
    assert not any("gamma" in name for name in structure.program.exported.state_dict)
    before, inputs = computed(structure.program, WIDE), observed(structure, WIDE)
    (record,) = residual_rotation.apply(structure, inputs, Precision("int8"))
    assert record.choice == "rotated"
    assert tiny.relative_error(computed(structure.program, WIDE).numpy(), before.numpy()) < 1e-12
