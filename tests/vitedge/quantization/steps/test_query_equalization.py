# SPDX-License-Identifier: Apache-2.0
"""Tests of `query_equalization` and of the `scores` that it measures."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from tests.export import tiny
from tests.vitedge.quantization.steps.programs import computed, observed, structure_of
from tests.vitedge.quantization.steps.test_value_equalization import block
from vitedge.program.structure import Structure
from vitedge.quantization.activation import parameters_over
from vitedge.quantization.insert import insert
from vitedge.quantization.plan import Plan
from vitedge.quantization.steps import query_equalization
from vitedge.quantization.steps.rounding_error import Precision
from vitedge.quantization.steps.scores import observed_scores

IMAGES = tiny.images(24)


def with_outlier_queries(structure: Structure) -> Structure:
    """Scales a channel of queries by 16 and that of keys by 1/16, and moves another channel of keys off zero."""
    for attention in structure.attentions:
        assert attention.query is not None
        assert attention.key is not None
        for operand, factor, offset in ((attention.query, 16.0, 0.0), (attention.key, 1 / 16, 10.0)):
            for name in (operand.layer.weight, operand.layer.bias):
                tensor = structure.editor.value(name).clone()
                tensor[operand.rows[:, 0]] *= factor
                structure.editor.set(name, tensor)
            bias = structure.editor.value(operand.layer.bias).clone()
            bias[operand.rows[:, 1]] += offset
            structure.editor.set(operand.layer.bias, bias)
    return structure


def sqnr_of_attention(structure: Structure, kind: str) -> float:
    """Returns the centred SQNR of the logits when queries and keys alone are rounded."""
    inputs = observed(structure, IMAGES)
    plan = Plan()
    for attention in structure.attentions:
        scores = observed_scores(structure.editor, attention, inputs)
        assert scores is not None
        factor = attention.dim**-0.5  # the query is rounded behind it
        operands = {"query": scores.query * factor, "key": scores.key}
        plan.attention[attention.name] = {
            name: parameters_over(float(values.min()), float(values.max()), kind) for name, values in operands.items()
        }
    result = computed(insert(copy.deepcopy(structure.program), plan), IMAGES)
    return tiny.centred_sqnr(result.numpy(), computed(structure.program, IMAGES).numpy())


@pytest.mark.parametrize(("name", "kind"), [("vit", "uint8"), ("swin", "int8")])
def test_outlier_queries_and_keys_off_the_middle_cost_nothing_any_more(name: str, kind: Any) -> None:
    plain = sqnr_of_attention(structure_of(name), kind)
    structure = with_outlier_queries(structure_of(name))
    spoilt = sqnr_of_attention(structure, kind)
    records = query_equalization.apply(structure, observed(structure, IMAGES), Precision(kind))
    mended = sqnr_of_attention(structure, kind)
    assert mended > plain - 1
    assert spoilt < mended - 6
    assert {record.choice for record in records} == {"centred keys, equal ranges"}
    assert all(record.after_db > record.before_db + 6 for record in records)


@pytest.mark.parametrize("kind", ["normalized", "keys", "across channels", "plain"])
def test_only_queries_and_keys_that_nothing_else_reads_are_scaled(kind: str) -> None:
    structure = block(kind)
    before = computed(structure.program, IMAGES.double())
    records = query_equalization.apply(structure, observed(structure, IMAGES.double()), Precision("int8"))
    after = computed(structure.program, IMAGES.double())
    assert bool(records) == (kind == "plain")
    assert torch.equal(after, before) == (kind != "plain")
    assert tiny.relative_error(after.numpy(), before.numpy()) < 1e-12
