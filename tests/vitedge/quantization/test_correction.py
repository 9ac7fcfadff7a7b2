# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor

from tests.export import tiny
from tests.vitedge.quantization import small_models as small
from tests.vitedge.quantization.plans import channel_weights, whole
from vitedge.program.canonical import canonicalize
from vitedge.program.execution import Execution
from vitedge.program.program import Program
from vitedge.program.structure import Structure, find_structure
from vitedge.quantization.correction import measure_bias
from vitedge.quantization.insert import insert
from vitedge.quantization.plan import Plan

IMAGES = tiny.images(12)


def canonical() -> Program:
    return canonicalize(small.captured(small.Mixture))


@pytest.fixture(scope="module")
def structure() -> Structure:
    return find_structure(canonical())


def biased(structure: Structure) -> Plan:
    """Ranges that clamp the upper part of what layers read, so that every output is shifted."""
    coarse = {"conv": whole("uint8", 0.01, 128), "left": whole("uint8", 0.004, 40), "right": whole("uint8", 0.004, 40)}
    return Plan(weights=channel_weights(structure), inputs=coarse)


def corrected(structure: Structure, plan: Plan, names: set[str]) -> Program:
    shifts = measure_bias(structure, insert(canonical(), plan), names, IMAGES)
    assert set(shifts) == names
    for name, shift in shifts.items():
        bias = structure.layer(name).bias
        plan.tensors[bias] = structure.editor.value(bias) + shift
    return insert(canonical(), plan)


def outputs(structure: Structure, program: Program) -> dict[str, Tensor]:
    """Returns layer to its output, channels last."""
    found: dict[str, Tensor] = {}

    def keep(layer: Any) -> Any:
        return lambda value: found.update({layer.name: value.movedim(layer.channel_axis, -1).flatten(0, -2)})

    Execution(program.exported, {layer.node.name: keep(layer) for layer in structure.layers})(IMAGES)
    return found


def means(structure: Structure, program: Program) -> dict[str, float]:
    """The largest mean error of a channel of every layer, relative to the spread of the layer's output."""
    expected, found = outputs(structure, canonical()), outputs(structure, program)
    return {name: float((found[name] - expected[name]).mean(0).abs().max() / expected[name].std()) for name in expected}


def test_the_mean_error_of_every_corrected_layer_is_gone(structure: Structure) -> None:
    names = {layer.name for layer in structure.layers}
    before = means(structure, insert(canonical(), biased(structure)))
    after = means(structure, corrected(structure, biased(structure), names))
    assert min(before.values()) > 0.01
    # What is left is the rounding of the bias to integers, and what that shifts further on.
    assert max(after.values()) < 2e-3


def test_only_the_layers_that_are_named_are_corrected(structure: Structure) -> None:
    after = means(structure, corrected(structure, biased(structure), {"left", "head"}))
    assert max(after["left"], after["head"]) < 2e-3
    assert min(after["right"], after["conv"]) > 0.01


def test_a_correction_improves_what_was_biased(structure: Structure) -> None:
    expected = small.run(canonical(), IMAGES)
    plain = small.run(insert(canonical(), biased(structure)), IMAGES)
    better = small.run(corrected(structure, biased(structure), {layer.name for layer in structure.layers}), IMAGES)
    assert float((better - expected).square().mean()) < 0.5 * float((plain - expected).square().mean())


def test_nothing_is_corrected_where_nothing_is_rounded(structure: Structure) -> None:
    shifts = measure_bias(structure, insert(canonical(), Plan()), {"conv", "head"}, IMAGES)
    assert all(float(shift.abs().max()) == 0 for shift in shifts.values())
