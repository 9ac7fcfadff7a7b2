# SPDX-License-Identifier: Apache-2.0
"""Tests of `shift` with the `rounding_error` that all steps share."""

from __future__ import annotations

import pytest

from tests.export import tiny
from tests.vitedge.quantization.steps.programs import difference, observed, quantized_sqnr, shifted, structure_of
from vitedge.quantization.steps import shift
from vitedge.quantization.steps.rounding_error import Precision

IMAGES = tiny.images(24)


@pytest.mark.parametrize("name", ["pit", "mobilevit"])
def test_symmetric_integers_waste_fewer_levels(name: str) -> None:
    structure = structure_of(name)
    before = quantized_sqnr(structure, IMAGES, Precision("int8"))
    records = shift.apply(structure, observed(structure, IMAGES), Precision("int8"))
    # The program alone computes something else now: it wants the subtraction, too.
    assert difference(structure_of(name), structure, IMAGES) > 1e-2
    assert difference(structure_of(name), shifted(structure, records), IMAGES) < 1e-5
    reference = structure_of(name)
    after = quantized_sqnr(structure, IMAGES, Precision("int8"), records, reference)
    assert after > before + 0.5
    assert all(record.after_db > record.before_db + 3 for record in records)


def test_what_pads_with_zeros_and_what_has_a_zero_point_is_left_alone() -> None:
    structure = structure_of("mobilevit")
    inputs = observed(structure, IMAGES)
    assert shift.apply(structure, inputs, Precision("uint8")) == ()
    names = {record.module for record in shift.apply(structure, inputs, Precision("int8"))}
    assert "stages.0.0.conv1_1x1.conv" in names
    assert "stages.1.1.transformer.0.mlp.fc2" in names
    assert "stages.0.0.conv2_kxk.conv" not in names
    assert "stages.1.1.conv_fusion.conv" not in names


def test_without_bias_correction_a_shift_that_costs_more_than_it_gains_is_not_taken() -> None:
    structure = structure_of("mobilevitv2")
    inputs = observed(structure, IMAGES)
    loose = shift.apply(structure, dict(inputs), Precision("int8"))
    strict = shift.apply(structure_of("mobilevitv2"), dict(inputs), Precision("int8", bias_corrected=False))
    assert all(record.after_db >= record.before_db for record in strict)
    assert sum(record.shift != 0 for record in strict) < sum(record.shift != 0 for record in loose)
