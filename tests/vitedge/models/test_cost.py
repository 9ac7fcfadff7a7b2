# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from types import ModuleType

import pytest
import timm
import torch

from vitedge.checkpoints.families import pit, swin
from vitedge.checkpoints.families.family import Hints, State
from vitedge.checkpoints.families.mobilevit import v1 as mobilevit
from vitedge.checkpoints.families.vit import spec as vit
from vitedge.errors import WeightsMismatch
from vitedge.models.cost import cost
from vitedge.records import ModelSpec

PUBLISHED: dict[str, tuple[ModuleType, float, float]] = {
    "vit_small_patch16_224": (vit, 22.05, 4.6),
    "pit_s_224": (pit, 23.46, 2.9),
    "mobilevit_s": (mobilevit, 5.58, 2.0),
    "swin_tiny_patch4_window7_224": (swin, 28.29, 4.5),
}
"""10^6 parameters and 10^9 multiply-accumulates as the papers give them."""


def described(name: str) -> tuple[ModelSpec, State]:
    """The spec of a published model, and weights without memory."""
    with torch.device("meta"):
        state = timm.create_model(name).state_dict()
    return PUBLISHED[name][0].infer(state, "timm", Hints()), state


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_cost_what_their_papers_say(name: str) -> None:
    spec, state = described(name)
    _, parameters, gmacs = PUBLISHED[name]
    found = cost(spec, state, name)
    assert found.parameters / 1e6 == pytest.approx(parameters, rel=0.01)
    assert found.gmacs == pytest.approx(gmacs, rel=0.03)
    assert found.activations_mb > 10


def test_the_multiply_accumulates_of_a_vit_are_those_of_its_formula() -> None:
    spec, state = described("vit_small_patch16_224")
    width, depth, tokens = spec.widths[0], spec.depths[0], 197
    block = tokens * 12 * width**2 + 2 * tokens**2 * width
    expected = 196 * 16**2 * 3 * width + depth * block + width * spec.classes
    assert cost(spec, state, "").gmacs == pytest.approx(expected / 1e9, rel=1e-6)


def test_weights_that_are_not_of_the_spec_have_no_cost() -> None:
    spec, state = described("vit_small_patch16_224")
    with pytest.raises(WeightsMismatch, match=r"some\.pth.*head\.weight is \(1000, 384\) instead of \(10, 384\)"):
        cost(replace(spec, classes=10), state, "some.pth")
