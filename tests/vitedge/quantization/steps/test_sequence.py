# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy
from functools import cache

import pytest
import torch
from torch import Tensor

from tests.export import tiny
from tests.vitedge.quantization.steps.programs import NAMES, computed, doubled, observed, shifted, structure_of
from vitedge.calibration.observations import Stats
from vitedge.program.program import Program
from vitedge.program.structure import find_structure
from vitedge.quantization.steps import head_rotation, residual_rotation
from vitedge.quantization.steps.rounding_error import Precision
from vitedge.quantization.steps.sequence import STEPS

IMAGES = tiny.images(8).double()
APPLIES = {
    "residual-rotation": {"vit", "deit"},
    "smoothing": set(NAMES),
    "head-rotation": set(NAMES) - {"mobilevitv2"},
    "value-equalization": set(NAMES),
    "query-equalization": set(NAMES) - {"mobilevitv2"},
    "shift": set(NAMES),
}
"""Step to the models in which it has something to do."""


@cache
def wide(name: str) -> tuple[Program, dict[str, Stats], Tensor]:
    """The program of a model in float64, what its layers read, and its logits."""
    structure = doubled(structure_of(name))
    return structure.program, observed(structure, IMAGES), computed(structure.program, IMAGES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("step", STEPS)
def test_a_step_leaves_the_float_function_and_keeps_the_observations_true(
    step: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (head_rotation, residual_rotation):
        monkeypatch.setattr(module, "MARGIN_DB", -100.0)  # rotated even where nothing is gained
    program, known, logits = wide(name)
    structure = find_structure(copy.deepcopy(program))
    inputs = dict(known)
    records = STEPS[step](structure, inputs, Precision("int8"))
    changed = [record for record in records if record.choice != "off" and not record.choice.startswith("not")]
    assert bool(changed) == (name in APPLIES[step])
    result = shifted(structure, records)
    assert tiny.relative_error(computed(result.program, IMAGES).numpy(), logits.numpy()) < 1e-12
    if changed:
        for layer, seen in observed(result, IMAGES).items():
            for told, true in ((inputs[layer].minimum, seen.minimum), (inputs[layer].maximum, seen.maximum)):
                assert torch.allclose(told, true, rtol=1e-4, atol=1e-5 * float(seen.high - seen.low))


@pytest.mark.parametrize("name", NAMES)
def test_the_default_steps_together_leave_the_float_function(name: str) -> None:
    program, known, logits = wide(name)
    structure = find_structure(copy.deepcopy(program))
    inputs = dict(known)
    records = [
        record
        for step in STEPS
        if "rotation" not in step
        for record in STEPS[step](structure, inputs, Precision("int8"))
    ]
    result = shifted(structure, records)
    assert tiny.relative_error(computed(result.program, IMAGES).numpy(), logits.numpy()) < 1e-12
    assert all(record.after_db >= record.before_db for record in records)


@pytest.mark.parametrize("step", ["query-equalization", "shift"])
def test_what_is_for_rounded_activations_does_nothing_without(step: str) -> None:
    structure = structure_of("vit")
    inputs = observed(structure, tiny.images())
    assert STEPS[step](structure, inputs, Precision(None)) == ()
    assert torch.equal(computed(structure.program, tiny.images()), computed(structure_of("vit").program, tiny.images()))


def test_layers_that_were_not_observed_are_left_alone() -> None:
    for step in STEPS:
        structure = structure_of("vit")
        STEPS[step](structure, {}, Precision("int8"))
        assert torch.equal(
            computed(structure.program, tiny.images()), computed(structure_of("vit").program, tiny.images())
        )
